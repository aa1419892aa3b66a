"""Makes the table in docs/guests.md from what the tests of tests/guests prove: python docs/make_guests.py"""

from __future__ import annotations

from pathlib import Path

from elm_mlx.config.guest_families import REFUSED, TESTED

PAGE = Path(__file__).parent / "guests.md"
BEGIN, END = "<!-- families: made by docs/make_guests.py -->\n", "<!-- end -->\n"
HOW = {True: "all keys and values: any kept prefix, drafts, lookup", False: "rings or states: kept caches as a whole"}
CANNOT = {
    True: "rows together, windows, quantized and saved caches, adapters",
    False: "the same, and: a shorter prefix, drafts, lookup; a chat is read anew after an answer that ended early",
}

REST = (
    "| any other of mlx-lm's | untested: a notice says so | nothing shown: kept caches as a whole | as the strictest "
    "above |"
)


def table() -> str:
    """The lines of the table."""
    lines = ["| model_type | works | how its caches are used | what it cannot |", "| --- | --- | --- | --- |"]
    for name in sorted(TESTED):
        trims = TESTED[name].trims
        lines.append(f"| `{name}` | float and 4-bit ids equal mlx-lm's | {HOW[trims]} | {CANNOT[trims]} |")
    lines += [f"| `{name}` | no | | {REFUSED[name]} |" for name in sorted(REFUSED)]
    lines.append(REST)
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with its table made anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
