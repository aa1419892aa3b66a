"""The public face: what a program that embeds elm-mlx uses. `elm_mlx` offers the same names and imports them late."""

from elm_mlx.api.language_model import LanguageModel, load
from elm_mlx.api.model_info import ModelInfo, info
from elm_mlx.api.options import Options
from elm_mlx.api.stream import Completion, Piece, Stats, Stream

__all__ = ["Completion", "LanguageModel", "ModelInfo", "Options", "Piece", "Stats", "Stream", "info", "load"]
