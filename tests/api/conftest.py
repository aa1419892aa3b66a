"""Models of two layers, the demo's too: more prove nothing of what runs them."""

from helpers.shallow import lm, openelm, source
from helpers.small_demo import small_demo, small_demo_folder

__all__ = ["lm", "openelm", "small_demo", "small_demo_folder", "source"]
