"""What a training changes in a model: which arrays, and how the model computes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import mlx.core as mx

from elm_mlx.models.blocks import Block
from elm_mlx.models.model import Model
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.train.training import Arrays


class Trained(Protocol):
    """The arrays that a training changes: of an adapter beside a model, or the model's own."""

    def begin(self, key: mx.array) -> Arrays:
        """The arrays at the beginning, which change nothing yet; what is random of them the key gives."""
        ...

    def held(self) -> int:
        """Bytes of weights that the model holds beside what is trained."""
        ...

    def base(self, begun: Arrays) -> Model:
        """The model as it is before it is trained; `begun` are the arrays of `begin`. It may be used until
        `with_arrays` is called."""
        ...

    def with_arrays(self, arrays: Arrays) -> Model:
        """The model that computes with these arrays, until others are given."""
        ...

    def layer_names(self, layer: int) -> list[str]:
        """The names of the arrays that a layer computes with."""
        ...

    def block(self, layer: int, arrays: Arrays) -> Block:
        """A layer that computes with its arrays, which are those of `layer_names`."""
        ...

    def write(self, output: Path, arrays: Arrays, base: Base) -> None:
        """Writes what was trained to a directory, over what an earlier call wrote. Raises DiskFull, ElmError."""
        ...
