"""Writes the figures and samples between the markers of README.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

MARKED = "(<!-- {0} -->\n).*?(<!-- /{0} -->)"


def rewrite(readme: Path, figures: dict[str, Any], samples: list[str]) -> None:
    """Replaces each marked part of the README. Raises ValueError for a part whose markers are not there."""
    text = readme.read_text(encoding="utf-8")
    parts = {
        "text": text_rows(figures["text"]),
        "bits": bits_table(figures["bits per token"]),
        "judged": judged_table(figures["samples"] | {"held-out stories": figures["held-out text, for comparison"]}),
        "samples": "".join(f"{number}. {sample}\n" for number, sample in enumerate(samples, 1)),
    }
    for name, part in parts.items():
        found = re.search(MARKED.format(name), text, re.S)
        if not found:
            raise ValueError(f"{readme} has no part marked {name}")
        text = text[: found.end(1)] + part + text[found.start(2) :]
    readme.write_text(text, encoding="utf-8")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def text_rows(text: dict[str, float]) -> str:
    return table(
        ["the text", ""],
        [
            ["training stories, all different", f"{text['distinct']:,} of {text['stories']:,}"],
            ["held-out stories that are training stories", f"{text['held out and in training']}"],
            ["different words, without invented names", f"{text['words']:,}"],
            ["invented names", f"{text['invented names']:,}"],
            ["words a story, mean", f"{text['words a story']:.0f}"],
            ["information in a story's choices, mean", f"{text['bits a story']:.0f} bits"],
            ["fewest bits in 2,000 stories", f"{text['fewest bits a story']:.0f} bits"],
        ],
    )


def bits_table(bits: dict[str, dict[str, float]]) -> str:
    rows = []
    for name, row in bits.items():
        demo = f"{row['demo']:.3f} ({megabytes(row, 'demo')})" if "demo" in row else ""
        draft = f"{row['draft']:.1%} ({megabytes(row, 'draft')})" if "draft" in row else ""
        other = row.get("n-gram", row.get("generator"))
        rows.append([name, demo, f"{other:.3f}" if other else "", draft])
    head = ["", "demo, held-out bits per token", "others", "the draft agrees with the demo"]
    return table(head, rows)


def megabytes(row: dict[str, float], model: str) -> str:
    return f"{row[model + ' bytes'] / 1e6:.2f} MB"


def judged_table(samples: dict[str, dict[str, Any]]) -> str:
    head = ["", "stories", "read by the grammar", "ended", "distinct", "8-grams in training", "sentences in training",
            "longest run in training, median (most)"]  # fmt: skip
    rows = []
    for name, row in samples.items():
        shares = [f"{row[key] / row['stories']:.1%}" for key in ("read by the grammar", "ended")]
        overlaps = [f"{row[key]:.1%}" for key in ("8-grams in training", "sentences in training")]
        run = f"{row['longest run in training, median words']:.0f} ({row['longest run in training, words']}) words"
        rows.append([name, str(row["stories"]), *shares, str(row["distinct"]), *overlaps, run])
    return table(head, rows)
