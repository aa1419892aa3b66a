"""What the scripts of the clients share: a line of JSON for each thing that is tried."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

URL, CHAT, DEMO = sys.argv[1:] if len(sys.argv) == 4 else ("", "", "")
SAID = [{"role": "user", "content": "What is the weather in Oslo?"}]
LONG = [{"role": "user", "content": "the cat sat " * 5000}]
CITIES = ["Oslo", "Paris"]
PLACE = {"type": "object", "properties": {"city": {"type": "string", "enum": CITIES}}, "required": ["city"],
         "additionalProperties": False}  # fmt: skip


def trying(what: str, work: Callable[[], Any]) -> None:
    """Tries something, and prints whether it worked and what was seen."""
    try:
        seen, worked = work(), True
    except Exception as error:  # of whatever library
        seen, worked = f"{type(error).__name__}: {error}", False
    print(json.dumps({"tried": what, "worked": worked, "seen": str(seen)[:200]}), flush=True)


def raises(kind: type[Exception], work: Callable[[], Any]) -> str:
    """The name of the error that is meant to come, and the beginning of its words."""
    try:
        seen = work()
    except kind as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    raise AssertionError(f"no {kind.__name__}, but {seen}")


def expected(holds: object, seen: Any) -> Any:
    """What was seen, if it is as it should be."""
    assert holds, seen
    return seen
