"""Errors as Anthropic's Messages API tells them: https://docs.anthropic.com/en/api/errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.protocols.dialect import Event, Named
from elm_mlx.protocols.refusal import Refusal

KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
    507: "overloaded_error", 529: "overloaded_error",
}  # fmt: skip


def refused(refusal: Refusal) -> dict[str, Any]:
    """The body of an error. A status without a word of its own is a fault of the request below 500, else of the
    server."""
    kind = KINDS.get(refusal.status) or ("invalid_request_error" if refusal.status < 500 else "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": refusal.message},
        "request_id": refusal.request_id,
    }


def failed(body: Mapping[str, Any], named: Named, refusal: Refusal) -> list[Event]:
    """All events of a stream that has failed before its model was there: the error."""
    return [Event(refused(refusal), "error")]
