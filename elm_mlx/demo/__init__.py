"""The built-in demo, its draft (draft/) and held-out text: package data, made by examples/demo_model. README.md is
the model card."""

from __future__ import annotations

from pathlib import Path

ABOUT = "a small OpenELM that tells short English stories, and knows nothing else"
PROMPT = "Once upon a time"


def demo_directory() -> Path:
    """The directory of the built-in demo model."""
    from importlib.resources import files  # here, as most commands do without it

    return Path(str(files("elm_mlx.demo")))
