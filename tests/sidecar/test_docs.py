"""The conversation in docs/sidecar.md is one that the sidecar has, and the methods there are those that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from elm_mlx.sidecar.methods import HANDLERS

PAGE = (Path(__file__).parents[2] / "docs" / "sidecar.md").read_text(encoding="utf-8")
# Figures and sentences that differ from machine to machine.
VARY = re.compile(r".*(_s|_bytes|_tokens|notices|version|structure)")


def settled(value: Any) -> Any:
    """A message without what varies."""
    if isinstance(value, dict):
        return {name: None if VARY.fullmatch(name) else settled(one) for name, one in value.items()}
    return value


def test_the_conversation_is_one_that_the_sidecar_has(open_pipes: Any) -> None:
    pipes = open_pipes(introduce=False)
    lines = re.findall(r"^(→|←) (.*)$", PAGE, re.MULTILINE)
    assert len(lines) > 15
    for arrow, line in lines:
        if arrow == "→":
            pipes.write(line.encode() + b"\n")
        elif "model/progress" not in line:
            while (message := pipes.read()).get("method") == "model/progress":
                pass
            expected = json.loads(line)
            del expected["jsonrpc"]
            assert settled(message) == settled(expected)


def test_the_page_has_every_method() -> None:
    assert set(re.findall(r"^\| `([a-z/]+)` \|", PAGE, re.MULTILINE)) == set(HANDLERS)
