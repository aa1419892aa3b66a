"""The loss curve as a picture: a small SVG, written without any library."""

from __future__ import annotations

from collections.abc import Sequence

from elm_mlx.train.history import Record

WIDTH, HEIGHT, MARGIN = 640, 320, 48  # pixels
MOST_POINTS = 600  # of a line: more are averaged, as there are no more pixels
LINES = (("loss", "training", "#8ab"), ("valid_loss", "validation", "#c40"))
Point = tuple[float, float]


def curve(records: Sequence[Record]) -> str:
    """The losses of a training over its steps, in nats a token, as the text of an SVG file."""
    drawn = [(label, colour, thinned(points(records, name))) for name, label, colour in LINES]
    drawn = [one for one in drawn if one[2]]
    every = [point for _, _, line in drawn for point in line] or [(0.0, 0.0)]
    right, (low, high) = max(x for x, _ in every) or 1, bounds([y for _, y in every])
    parts = [axis_text(MARGIN, HEIGHT - 12, "step 0"), axis_text(WIDTH - MARGIN, HEIGHT - 12, f"{right:g}")]
    parts += [axis_text(4, HEIGHT - MARGIN, f"{low:.3f}"), axis_text(4, MARGIN, f"{high:.3f}")]
    for number, (label, colour, line) in enumerate(drawn):
        places = " ".join(f"{across(x, right):.1f},{down(y, low, high):.1f}" for x, y in line)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{places}"/>')
        parts.append(axis_text(MARGIN + 130 * number, 20, f"{label} loss", colour))
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    frame = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, frame, *parts, "</svg>", ""])


def points(records: Sequence[Record], name: str) -> list[Point]:
    """(step, loss) of the records that have this loss."""
    return [(one["step"], one[name]) for one in records if one.get(name) is not None]


def thinned(line: Sequence[Point]) -> list[Point]:
    """A line of at most MOST_POINTS points: neighbours become their mean."""
    size = -(-len(line) // MOST_POINTS) or 1
    groups = [line[begin : begin + size] for begin in range(0, len(line), size)]
    return [(sum(x for x, _ in one) / len(one), sum(y for _, y in one) / len(one)) for one in groups]


def bounds(losses: Sequence[float]) -> Point:
    """The least and the largest loss, apart from each other."""
    low, high = min(losses), max(losses)
    return low, high if high > low else low + 1


def across(step: float, right: float) -> float:
    """Where a step lies, in pixels from the left."""
    return MARGIN + (WIDTH - 2 * MARGIN) * step / right


def down(loss: float, low: float, high: float) -> float:
    """Where a loss lies, in pixels from the top."""
    return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (loss - low) / (high - low)


def axis_text(x: float, y: float, text: str, colour: str = "#333") -> str:
    """A text at a place."""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}">{text}</text>'
