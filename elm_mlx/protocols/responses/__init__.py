"""OpenAI's Responses API (https://platform.openai.com/docs/api-reference/responses), as a Dialect: the one that Codex
speaks. Nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Event, Events, Facts, Named
from elm_mlx.protocols.openai.answers import refused
from elm_mlx.protocols.refusal import Refusal
from elm_mlx.protocols.responses.events import ResponseEvents, event
from elm_mlx.protocols.responses.reading import read
from elm_mlx.protocols.responses.response import failed_response, response, whole

__all__ = ["events", "failed", "read", "refused", "whole"]


def events(ask: Ask, body: Mapping[str, Any], facts: Facts) -> Events:
    """The stream of a request."""
    return ResponseEvents(ask, body, facts)


def failed(body: Mapping[str, Any], named: Named, refusal: Refusal) -> list[Event]:
    """All events of a stream that has failed before its model was there: a response that begins and fails."""
    begun = response(body, named)
    ended = failed_response(begun, [], refusal)
    told = {"created": begun, "in_progress": begun, "failed": ended}
    return [event(count, kind, response=one) for count, (kind, one) in enumerate(told.items())]
