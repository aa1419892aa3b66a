"""OpenAI's Responses API (https://platform.openai.com/docs/api-reference/responses), as a Dialect: the one that Codex
speaks. Nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Events, Facts
from elm_mlx.protocols.openai.answers import refused
from elm_mlx.protocols.responses.events import ResponseEvents
from elm_mlx.protocols.responses.reading import read
from elm_mlx.protocols.responses.response import whole

__all__ = ["events", "read", "refused", "whole"]


def events(ask: Ask, body: Mapping[str, Any], facts: Facts) -> Events:
    """The stream of a request."""
    return ResponseEvents(ask, body, facts)
