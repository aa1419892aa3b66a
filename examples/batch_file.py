"""Answers a file of prompts, one a line, several at a time; writes a line of JSON for each, as it ends.

python examples/batch_file.py PROMPTS ANSWERS

Reads only as far ahead as answers are written, so the file may be of any length. `elm-mlx batch` also goes on where it
was stopped, and takes options by the line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import elm_mlx


def numbered(lines: Iterator[str], asked: dict[int, str]) -> Iterator[str]:
    """The prompts, each of them noted by its number until it is answered."""
    for number, line in enumerate(lines):
        asked[number] = line.rstrip("\n")
        yield asked[number]


def main(prompts: str, answers: str) -> None:
    asked: dict[int, str] = {}
    with elm_mlx.load() as lm, Path(prompts).open(encoding="utf-8") as lines, Path(answers).open("w") as output:
        for number, done in lm.batch(numbered(lines, asked), max_tokens=32, ordered=False):
            row = {"line": number + 1, "prompt": asked.pop(number), "text": done.text, "why": done.finish_reason}
            print(json.dumps(row), file=output)
    print("Written:", answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
