"""Models of two layers: more prove nothing of what is tested here."""

from helpers.shallow import lm, openelm, source

__all__ = ["lm", "openelm", "source"]
