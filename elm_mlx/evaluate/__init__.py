"""How good a model is: how well it predicts a text."""

from __future__ import annotations

from elm_mlx.evaluate.perplexity import Perplexity, perplexity

__all__ = ["Perplexity", "perplexity"]
