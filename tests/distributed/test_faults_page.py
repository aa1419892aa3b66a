"""docs/distributed.md quotes the sentences of faults as the code has them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUOTED = r"'[^']*'|\*[^*]*\*|`[^`]*`|\(ELM_\w+\)"  # a value, italics, a command, a variable
VARIABLE = re.compile(rf"(?:and )?[Rr]ank \d(?: \([^)]*\))?|{QUOTED}|[\d.]+\d|\d+|\bGB\b|\bmlx\b|: ")
SHORTEST = 9  # characters of a piece that is looked for


def constants() -> list[str]:
    """Every text, and piece of one between variables, in the code of several machines."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "elm_mlx" / "distributed").glob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [node.value for node in nodes if isinstance(node.value, str)]


def test_every_sentence_of_a_fault_is_the_codes_own() -> None:
    page = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    table = page.partition("| what happens | what is said | after |")[2].partition("\n\n")[0]
    sentences = [line.split("|")[2].strip() for line in table.splitlines()[2:]]
    assert len(sentences) > 10
    known = constants()
    for sentence in sentences:
        pieces = [piece.strip(" ,") for piece in VARIABLE.split(sentence)]
        for piece in (piece for piece in pieces if len(piece) >= SHORTEST):
            assert any(piece in text for text in known), f"{piece!r} of {sentence!r}"
