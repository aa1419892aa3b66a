"""Anthropic's Messages API (https://docs.anthropic.com/en/api/messages), as a Dialect: the one that Claude Code
speaks; and count_tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.protocols.anthropic.errors import failed, refused
from elm_mlx.protocols.anthropic.events import MessageEvents
from elm_mlx.protocols.anthropic.message import counted, whole
from elm_mlx.protocols.anthropic.reading import read, read_count
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Events, Facts

__all__ = ["counted", "events", "failed", "read", "read_count", "refused", "whole"]


def events(ask: Ask, body: Mapping[str, Any], facts: Facts) -> Events:
    """The stream of a request."""
    return MessageEvents(ask, body, facts)
