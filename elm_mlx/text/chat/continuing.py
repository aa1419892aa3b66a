"""A chat whose last message is only begun: a mark at its end shows where the template has written it so far."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from elm_mlx.errors import InvalidRequest


def new_mark() -> str:
    """A text that nobody can have written into a message: letters and digits, which no template cuts off."""
    return secrets.token_hex(16)


def with_mark(messages: Sequence[Mapping[str, Any]], mark: str) -> list[Mapping[str, Any]]:
    """Messages whose last one, an assistant's text, ends with the mark. Raises InvalidRequest where it is none."""
    *before, last = messages
    if last.get("role") != "assistant" or not isinstance(last.get("content"), str) or last.get("tool_calls"):
        raise InvalidRequest("The last message cannot be continued: it must be an assistant's, with a text and without "
                             "calls.")  # fmt: skip
    return [*before, {**last, "content": last["content"] + mark}]


def before_mark(rendered: str, mark: str) -> str:
    """What a template has written up to the mark. Raises InvalidRequest where the mark is not there once."""
    if rendered.count(mark) != 1:
        raise InvalidRequest("The last message cannot be continued: the model's chat template does not write it as it "
                             "is.")  # fmt: skip
    return rendered.partition(mark)[0]
