"""The public face: what a program that embeds elm-mlx uses. `elm_mlx` offers the same names and imports them late."""

import elm_mlx.device.backend  # noqa: F401  first, as its error says what to install where MLX has no backend
from elm_mlx.api.completion import Completion, Piece, Stats
from elm_mlx.api.language_model import LanguageModel
from elm_mlx.api.loading import load
from elm_mlx.api.model_info import ModelInfo, info
from elm_mlx.api.options import Options
from elm_mlx.api.session import Session
from elm_mlx.api.session_stream import SessionStream
from elm_mlx.api.stream import Stream
from elm_mlx.api.tools import Tool, tool_of
from elm_mlx.engine.logprobs import TokenLogprob
from elm_mlx.text.tools import ToolCall

__all__ = [
    "Completion",
    "LanguageModel",
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
    "info",
    "load",
    "tool_of",
]
