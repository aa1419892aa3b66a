"""The models that `elm-mlx bench` measures: chosen before the first is measured, made or pulled one by one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from elm_mlx.bench.shapes import SHAPES
from elm_mlx.cli.find import find_here, pull_directory
from elm_mlx.cli.wishes import naming, settle
from elm_mlx.demo import demo_directory

if TYPE_CHECKING:
    from elm_mlx.config import ModelConfig


Bits = Sequence[str | None] | None
Subject = tuple[str | None, str | None]  # (a model, a shape, or None for the demo; its bits)
Measured = Generator[tuple[str, Path], None, None]


def choose_shapes(shapes: Sequence[str], bits: Bits) -> tuple[list[Subject], list[ModelConfig]]:
    """(the random models to make, the configurations that they will have)."""
    from elm_mlx.config import config_from_dict  # here, as --help needs no configuration

    return list(product(shapes, bits or [None])), [config_from_dict(SHAPES[shape]) for shape in shapes]


def choose_models(models: Sequence[str | None] | None, bits: Bits) -> tuple[list[Subject], list[ModelConfig]]:
    """(the models to find, the configurations of those that are on this machine). Raises as `locate`."""
    from elm_mlx.store.load import read_config  # here, as --help needs no MLX

    wanted: list[Subject] = []
    configs = []
    for model, few in product(models or [None], bits or [None]):
        asked = {"bits": few}
        with naming("models"):
            place = settle(partial(find_here, model), asked, "bits")
        if few and not asked["bits"] and (model, None) in wanted:
            continue  # several wishes for bits came to nothing
        wanted.append((model, asked["bits"]))
        configs += [read_config(place)] if place else []
    return wanted, configs


def make_each(wanted: Sequence[Subject], dtype: str | None, force: bool) -> Measured:
    """Makes random models and gives their (name, directory). Each is removed before the next one is made."""
    from elm_mlx.bench.random_model import random_model  # here, as --help needs no MLX

    for shape, few in wanted:
        assert shape is not None  # only the demo has no name
        with random_model(shape, int(few) if few else None, dtype, force) as directory:
            yield shape, directory


def find_each(wanted: Sequence[Subject], force: bool) -> Measured:
    """Finds models and gives their (name, directory). Each is pulled first where it is not on this machine."""
    for model, few in wanted:
        yield model or "demo", pull_directory(model, {"bits": few}, force) or demo_directory()
