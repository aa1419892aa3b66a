"""From calibration texts to the windows of ids that a model reads in them, and the texts that the package ships."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files

from elm_mlx.errors import InvalidRequest
from elm_mlx.text.tokenizer import Tokenizer

CHARACTERS = 4  # of an English text in a token
SHORTEST = 200  # characters of a passage: of less, a model sees no context
TURNS = 4  # passages of each text, where the windows are few
GOLDEN = (5**0.5 - 1) / 2  # the parts after the point of its multiples fill 0 to 1 as evenly as can be, however many


def shipped() -> list[str]:
    """The calibration texts of the package, one for each kind of text, in the order of their names."""
    folder = files("elm_mlx.convert.calibrate.text")
    named = sorted(file.name for file in folder.iterdir() if file.name.endswith(".txt"))
    return [(folder / name).read_text(encoding="utf-8") for name in named]


def windows(tokenizer: Tokenizer, ids: int, texts: Sequence[str], count: int, length: int) -> list[list[int]]:
    """Up to `count` windows of `length` ids of the texts, for a model that has the ids 0 to `ids` - 1.

    A window begins with BOS where the model has one, and mostly where a line begins. Passages of all texts take turns,
    those of each from all over it: few windows hold something of every text, and the same texts give the same windows.
    Where the texts end early, the windows are fewer, and what fills no window is left out; if it is all there is, it is
    the only window, a shorter one.

    Raises InvalidRequest for texts without a token, for one that the tokenizer refuses or the model cannot read, and
    for a `length` that BOS alone fills.
    """
    bos = tokenizer.encode("")
    room = length - len(bos)
    if room < 1:
        raise InvalidRequest(f"A model with a context of {length} tokens has no room for a text to calibrate on.")
    full: list[list[int]] = []
    begun: list[int] = []  # a window that is not full yet
    ends: list[int] = []  # of passages, too short to begin a window with
    for passage in in_turns(texts, passage_size(room, count, len(texts))):
        begun += encode(tokenizer, ids, passage)
        full += cut(begun, room)
        begun = begun[len(begun) // room * room :]
        if 2 * len(begun) < room:
            ends, begun = ends + begun, []
        if len(full) >= count:
            break
    rest = ends + begun
    full += cut(rest, room)
    if not (full or rest):
        raise InvalidRequest("The calibration text is empty. Give one with some pages of text.")
    return [bos + window for window in (full or [rest])[:count]]


def encode(tokenizer: Tokenizer, ids: int, passage: str) -> list[int]:
    """The ids of a passage, all of them below `ids`. Raises InvalidRequest for others."""
    found = tokenizer.encode_text(passage)
    if max(found, default=0) >= ids:
        raise InvalidRequest(tokenizer.why_beyond(max(found), ids))
    return found


def cut(ids: list[int], room: int) -> list[list[int]]:
    """All pieces of `room` ids, one after another; what is left over is left out."""
    return [ids[start : start + room] for start in range(0, len(ids) - room + 1, room)]


def passage_size(room: int, count: int, texts: int) -> int:
    """The characters of a passage: a window's, or less where each text could not have its turns in `count` windows."""
    return max(SHORTEST, min(room, room * count // (TURNS * max(1, texts))) * CHARACTERS)


def in_turns(texts: Sequence[str], size: int) -> Iterator[str]:
    """All passages of the texts. The beginning of the sequence, however long, has about an equal share of each text,
    spread over it."""
    found = [(number * GOLDEN % 1, text * GOLDEN % 1, passage)
             for text, whole in enumerate(texts) for number, passage in enumerate(passages(whole, size))]  # fmt: skip
    return (passage for _, _, passage in sorted(found))


def passages(text: str, size: int) -> Iterator[str]:
    """Cuts a text into passages of at least `size` characters that end with a line, or at twice the size without one;
    the last may be shorter. What has no visible character is left out."""
    start = 0
    while start < len(text):
        line_end = text.find("\n", start + size - 1, start + 2 * size)
        end = line_end + 1 or start + 2 * size
        if text[start:end].strip():
            yield text[start:end]
        start = end
