"""Models of two layers: more prove nothing of what runs them."""

from helpers.shallow import lm, openelm, source

__all__ = ["lm", "openelm", "source"]
