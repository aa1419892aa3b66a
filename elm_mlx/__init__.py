"""elm-mlx: run OpenELM and Llama 3 on Apple silicon with MLX.

    import elm_mlx
    lm = elm_mlx.load("path/to/model")
    print(lm.generate("Once upon a time").text)

Nothing heavy is imported before a name below is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elm_mlx.api import (
        Completion,
        LanguageModel,
        ModelInfo,
        Options,
        Piece,
        Session,
        SessionStream,
        Stats,
        Stream,
        TokenLogprob,
        Tool,
        ToolCall,
        info,
        load,
        tool_of,
    )
    from elm_mlx.convert.merge import merge
    from elm_mlx.device.blas import fast_blas, use_fast_blas
    from elm_mlx.errors import ElmError
    from elm_mlx.library.local import Located
    from elm_mlx.library.pull import pull

__version__ = "0.1.0"

__all__ = [
    "Completion",
    "ElmError",
    "LanguageModel",
    "Located",
    "ModelInfo",
    "Options",
    "Piece",
    "Session",
    "SessionStream",
    "Stats",
    "Stream",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "fast_blas",
    "info",
    "load",
    "merge",
    "pull",
    "tool_of",
    "use_fast_blas",
]

_HOME = dict.fromkeys(__all__, "elm_mlx.api") | {
    "ElmError": "elm_mlx.errors",
    "Located": "elm_mlx.library.local",
    "merge": "elm_mlx.convert.merge",
    "pull": "elm_mlx.library.pull",
    "fast_blas": "elm_mlx.device.blas",
    "use_fast_blas": "elm_mlx.device.blas",
}
# Reached as attributes too: elm_mlx.convert.convert(...), elm_mlx.errors.BadCheckpoint.
_MODULES = ("convert", "errors")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"elm_mlx.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'elm_mlx' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
