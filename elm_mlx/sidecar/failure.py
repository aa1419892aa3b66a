"""Errors as JSON-RPC tells them: a code, a sentence, and data for programs."""

from __future__ import annotations

from typing import Any

from elm_mlx.errors import ARGUMENT, ElmError, InvalidRequest, NotEnoughMemory, PromptTooLong, Unfinished
from elm_mlx.sidecar.answers import completion_object
from elm_mlx.sidecar.message import INTERNAL_ERROR, INVALID_PARAMS

OWN_CODES = -32000  # the code of an error of elm-mlx is this less its exit code: -32082 for Cancelled


def failure_of(error: BaseException) -> dict[str, Any]:
    """The error object of an error. What elm-mlx raises on purpose has {kind, exit_code, advice} as its data, and its
    own figures; anything else is an internal error, of which only the class is told."""
    if not isinstance(error, ElmError):
        sentence = f"An error inside elm-mlx ({type(error).__name__}); standard error has more."
        return {"code": INTERNAL_ERROR, "message": sentence}
    advice = ARGUMENT.sub(lambda found: found[0][1:-1], error.advice)
    data = {"kind": type(error).__name__, "exit_code": error.exit_code, "advice": advice, **figures_of(error)}
    return {"code": code_of(error), "message": str(error), "data": data}


def code_of(error: ElmError) -> int:
    """The code of an error: JSON-RPC's own where a parameter is wrong, else one of elm-mlx's."""
    return INVALID_PARAMS if isinstance(error, InvalidRequest) else OWN_CODES - error.exit_code


def figures_of(error: ElmError) -> dict[str, Any]:
    """What an error knows beside its sentence."""
    match error:
        case PromptTooLong():
            return {"tokens": error.tokens, "context": error.context}
        case NotEnoughMemory():
            return {"needed": error.needed, "available": error.available}
        case Unfinished() if error.completion is not None:
            return {"completion": completion_object(error.completion)}
    return {}
