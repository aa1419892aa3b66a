"""STAND-IN, until the real one is merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from elm_mlx.errors import InvalidRequest


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any] | None = None

    def check(self, arguments: Mapping[str, Any]) -> str | None:
        return None


def tool_of(given: Any) -> Tool:
    if callable(given):
        return Tool(given.__name__, "", {}, given)
    if not isinstance(given, Mapping):
        raise InvalidRequest("no tool")
    f = given.get("function", given)
    return Tool(f["name"], f.get("description", ""), f.get("parameters", {}))
