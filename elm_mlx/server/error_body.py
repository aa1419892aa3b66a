"""The body of an error in the form of the API whose route was asked, for errors that no API has read the request of."""

from __future__ import annotations

import json

from elm_mlx.protocols.anthropic.errors import refused as as_anthropic
from elm_mlx.protocols.openai.answers import refused as as_openai
from elm_mlx.protocols.refusal import Refusal

MESSAGES = ("/v1/messages", "/messages")  # Anthropic's routes, and what lies below them


def error_body(refusal: Refusal, path: str) -> bytes:
    """The JSON of an error: with OpenAI's four keys, on Anthropic's routes in its own form."""
    return json.dumps(as_anthropic(refusal) if is_anthropic(path) else as_openai(refusal)).encode()


def is_anthropic(path: str) -> bool:
    """Whether a path is one of Anthropic's API."""
    return any(path == one or path.startswith(f"{one}/") for one in MESSAGES)
