"""The body of an error in the form of the API whose route was asked, for errors that no API has read the request of."""

from __future__ import annotations

import json
from typing import Any

from elm_mlx.protocols.refusal import Refusal

MESSAGES = ("/v1/messages", "/messages")  # Anthropic's routes, and what lies below them
# Anthropic's words for a status; the others are OpenAI's own. Source: docs.anthropic.com, "Errors".
KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
         429: "rate_limit_error", 503: "overloaded_error"}  # fmt: skip


def error_body(refusal: Refusal, path: str) -> bytes:
    """The JSON of an error: with OpenAI's four keys, on Anthropic's routes in its own form."""
    return json.dumps(anthropic_form(refusal) if is_anthropic(path) else openai_form(refusal)).encode()


def is_anthropic(path: str) -> bool:
    """Whether a path is one of Anthropic's API."""
    return any(path == one or path.startswith(f"{one}/") for one in MESSAGES)


def openai_form(refusal: Refusal) -> dict[str, Any]:
    """An error as OpenAI's API has it: all four keys are there, null where there is nothing to tell."""
    told = {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.code}
    return {"error": told}


def anthropic_form(refusal: Refusal) -> dict[str, Any]:
    """An error as Anthropic's API has it."""
    kind = KINDS.get(refusal.status) or ("api_error" if refusal.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": refusal.message}}
