"""The model that a script measures: a directory, random weights, or the demo."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elm_mlx.bench.random_model import random_model
from elm_mlx.convert import convert

DEMO = Path(__file__).parents[1] / "examples" / "demo_model" / "demo"  # in bfloat16; the built-in one has 8 bits


@contextmanager
def opened(shape: str | None, model: Path | None = None) -> Iterator[Path]:
    """The directory of a shape with random weights, of a model, or of the demo; but for the second in float32."""
    if shape:
        with random_model(shape, dtype="float32") as directory:
            yield directory
    elif model:
        yield model
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield convert(DEMO, Path(folder) / "demo", dtype="float32").output
