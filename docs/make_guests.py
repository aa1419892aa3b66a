"""Makes the table in docs/guests.md from what the tests of tests/guests saw: python docs/make_guests.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from elm_mlx.config.guest_families import REFUSED

PAGE = Path(__file__).parent / "guests.md"
SEEN = Path(__file__).parents[1] / "tests" / "guests" / "families.json"
BEGIN, END = "<!-- families: made by docs/make_guests.py -->\n", "<!-- end -->\n"
IDS = {"floats": "float", "4 bits": "4-bit"}
CACHES = {"KVCache": "all keys and values", "RotatingKVCache": "rings", "ArraysCache": "states"}
REUSED = {
    "goes on": "goes on from its end", "goes on after an early end": "from an end that came early",
    "shorter prefix": "any shared beginning",
}  # fmt: skip
ABLE = {"proposals": "drafts and lookup", "rows": "rows together"}
ALL_LACK = "windows, quantized or saved caches, or adapters"
REST = (
    "| any other of mlx-lm's | untested: a notice says so | | what goes on from its end | "
    "drafts and lookup, rows together, an end that came early |"
)


def row(name: str, seen: dict[str, Any]) -> str:
    """The line of a family."""
    equal = " and ".join(words for key, words in IDS.items() if seen[key])
    caches = ", ".join(CACHES[kind] for kind in seen["caches"])
    reused = ", ".join(words for key, words in REUSED.items() if seen[key])
    lacks = [words for key, words in (*ABLE.items(), *REUSED.items()) if not seen[key]]
    return f"| `{name}` | {equal} ids equal mlx-lm's | {caches} | {reused} | {', '.join(lacks) or 'nothing'} |"


def table() -> str:
    """The lines of the table."""
    lines = ["| model_type | works | its caches | what of them is used again | what it lacks |", "| --- " * 5 + "|"]
    seen = json.loads(SEEN.read_text(encoding="utf-8"))
    lines += [row(name, seen[name]) for name in sorted(seen)]
    lines += [f"| `{name}` | no | | | {REFUSED[name]} |" for name in sorted(REFUSED)]
    return "\n".join([*lines, REST]) + f"\n\nNo guest has {ALL_LACK}.\n"


def page() -> str:
    """The page with its table made anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
