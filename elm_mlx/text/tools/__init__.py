"""Calls of tools in an answer: the forms in which models write them, read while the answer comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """A call that an answer makes: `id` is the call's own, `arguments` are those of the tool, by name."""

    id: str
    name: str
    arguments: Mapping[str, Any]
