"""From an error to what a client is told: a status of HTTP, a code for programs, and a sentence."""

from __future__ import annotations

import logging

from elm_mlx.errors import (
    ElmError,
    EngineStopped,
    InvalidRequest,
    NotEnforceable,
    NotEnoughMemory,
    NotFinite,
    NotFound,
    PromptTooLong,
    QueueFull,
    RequestFailed,
    Unfinished,
)
from elm_mlx.protocols.refusal import FieldRefused, Refusal
from elm_mlx.server.log import log_unforeseen

log = logging.getLogger("elm_mlx.server")
SERVER = "server_error"


class UnknownModel(NotFound):
    """A request names a model that the server does not have."""


class Gone(ElmError):
    """A connection that takes nothing any more; nobody is told."""


def refusal_of(error: BaseException) -> Refusal:
    """What a client is told of an error. One that nobody foresaw, and one of a model's files, which may name folders of
    the machine, is told in general words, and in full to the log."""
    match error:
        case FieldRefused():
            return Refusal(400, str(error), code=error.code, param=error.param)
        case UnknownModel():
            return Refusal(404, str(error), "not_found_error", "model_not_found", "model")
        case PromptTooLong():
            return Refusal(400, too_long(error), code="context_length_exceeded")
        case NotEnforceable():
            return Refusal(400, str(error), code="not_enforceable")
        case InvalidRequest():
            return Refusal(400, str(error), code="invalid_value")
        case QueueFull():
            return Refusal(503, str(error), "overloaded_error", "overloaded", headers={"retry-after": "1"})
        case NotEnoughMemory():
            return Refusal(503, str(error), SERVER, "insufficient_memory", headers={"x-should-retry": "false"})
        case EngineStopped() | Unfinished():
            return Refusal(503, str(error), SERVER, "engine_stopped", headers={"retry-after": "5"})
        case NotFinite() | RequestFailed():
            log.error("A request failed: %s", error)
            return Refusal(500, str(error), SERVER, "computing_failed")
        case NotFound() if "pip install" in str(error):  # an extra that a form of the answer needs
            return Refusal(400, str(error), code="not_enforceable")
        case ElmError():
            log.error("A model cannot answer: %s", error)
            return Refusal(500, "The model cannot answer; the log of the server says why.", SERVER, "model_unusable")
    log_unforeseen("A request met an unexpected error.", error)
    return Refusal(500, "The server failed on this request; its log says why.", SERVER, "internal_error")


def too_long(error: PromptTooLong) -> str:
    """The sentence for a prompt that is too long, in the words by which clients know it.

    Source of the words: litellm 1.110, litellm_core_utils/exception_mapping_utils.py, which looks for them to tell this
    error from others; aider then shortens its chat. Claude Code 2.1 looks for "prompt is too long: N tokens > M".
    """
    if not error.context:
        return str(error)
    wanted = error.tokens + 1
    return (f"This model's maximum context length is {error.context} tokens. However, you requested {wanted} tokens "
            f"({error.tokens} in the prompt, and at least 1 in the answer). The prompt is too long: {wanted} tokens > "
            f"{error.context}. Shorten it.")  # fmt: skip
