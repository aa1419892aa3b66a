"""Less memory for more time: states within a layer are computed again for the gradient, instead of being kept.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; here each layer is a segment.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from elm_mlx.models.attention import CacheLayer
from elm_mlx.models.blocks import Block
from elm_mlx.models.model import Model
from elm_mlx.models.rope import Position
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.train.trained import Trained
from elm_mlx.train.training import Arrays


class Recomputed:
    """Trained arrays, as another Trained has them, in a model that keeps nothing of a layer but what goes into it."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained

    def begin(self, key: mx.array) -> Arrays:
        """The arrays at the beginning."""
        return self.trained.begin(key)

    def held(self) -> int:
        """Bytes of weights that the model holds beside what is trained."""
        return self.trained.held()

    def base(self, begun: Arrays) -> Model:
        """The model as it is before it is trained."""
        return self.trained.base(begun)

    def with_arrays(self, arrays: Arrays) -> Model:
        """The model that computes with these arrays, until others are given."""
        model = self.trained.with_arrays(arrays)
        model.blocks = [self._recomputed(block, layer, arrays) for layer, block in enumerate(model.blocks)]
        return model

    def layer_names(self, layer: int) -> list[str]:
        """The names of the arrays that a layer computes with."""
        return self.trained.layer_names(layer)

    def block(self, layer: int, arrays: Arrays) -> Block:
        """A layer that computes with its arrays."""
        return self.trained.block(layer, arrays)

    def write(self, output: Path, arrays: Arrays, base: Base) -> None:
        """Writes what was trained to a directory."""
        self.trained.write(output, arrays, base)

    def _recomputed(self, block: Block, layer: int, arrays: Arrays) -> Block:
        own = {name: arrays[name] for name in self.layer_names(layer)}
        return RecomputedBlock(block, self.trained, layer, own) if own else block


class RecomputedBlock(Block):
    """A layer of which the gradient keeps only the states that go into it. Its arrays are arguments of what is computed
    again: MLX gives gradients of nothing else."""

    def __init__(self, block: Block, trained: Trained, layer: int, arrays: Arrays) -> None:
        self.__dict__.update(vars(block))
        self._trained, self._layer, self._arrays = trained, layer, arrays

    def __call__(self, h: mx.array, cache: CacheLayer, position: Position) -> mx.array:
        def computed(arrays: Arrays, h: mx.array) -> mx.array:
            return self._trained.block(self._layer, arrays)(h, cache, position)

        states: mx.array = mx.checkpoint(computed)(self._arrays, h)
        return states
