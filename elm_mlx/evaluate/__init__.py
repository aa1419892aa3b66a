"""How good a model is: how well it predicts a text, and how it answers the questions of tasks."""

from __future__ import annotations

from elm_mlx.evaluate.perplexity import Perplexity, perplexity
from elm_mlx.evaluate.run import Settings, evaluate

__all__ = ["Perplexity", "Settings", "evaluate", "perplexity"]
