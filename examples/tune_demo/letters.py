"""The letters that the demo learns: a grammar of their own over the words of its stories, and the seeds of each part.

    python examples/tune_demo/letters.py DIR

writes DIR/train.jsonl, 300 letters, and DIR/valid.jsonl, 40 others. The same ones come every time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "demo_model"))

import stories  # noqa: E402
from grammar import Grammar, Text  # noqa: E402

TRAINING, VALIDATION, HELD_OUT = 300, 40, 60  # letters
VALIDATION_FROM, HELD_OUT_FROM = 1_000_000, 2_000_000  # seeds


@cache
def grammar() -> Grammar:
    """The grammar of letters."""
    return Grammar(stories.grammar().classes).load(HERE / "letters.grammar")


def letters(count: int, first_seed: int = 0) -> list[Text]:
    """So many different letters, of the seeds from `first_seed` on."""
    found: dict[str, Text] = {}
    seed = first_seed
    while len(found) < count:
        one = grammar().write(seed, "letter")
        found.setdefault(one.written, one)
        seed += 1
    return [*found.values()]


def write_rows(path: Path, texts: Iterable[Text]) -> None:
    """Writes a file of rows that `elm-mlx train` reads."""
    path.write_text("".join(json.dumps({"text": text.written}) + "\n" for text in texts), encoding="utf-8")


def write_data(folder: Path, training: int = TRAINING, validation: int = VALIDATION) -> None:
    """Writes train.jsonl and valid.jsonl into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", letters(training))
    write_rows(folder / "valid.jsonl", letters(validation, VALIDATION_FROM))


def main() -> None:
    """Writes the data."""
    parser = argparse.ArgumentParser(description="Writes 300 made letters to learn from, and 40 to validate with.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    write_data(parser.parse_args().folder)


if __name__ == "__main__":
    main()
