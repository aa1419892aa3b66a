"""Which part of a model one rank holds, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from elm_mlx.config.base import ModelConfig, Shape

TENSOR, PIPELINE = "tensor", "pipeline"
Kind = Literal["tensor", "pipeline"]


@dataclass(frozen=True)
class Part:
    """The part of rank `rank` where `ranks` machines hold a model together. With `kind` "tensor" each has its share of
    every layer's heads and feed-forward; with "pipeline" each has some whole layers."""

    kind: Kind
    rank: int
    ranks: int


@dataclass(frozen=True)
class Cut:
    """What is held of a tensor: on `axis` the entries from `begin` to `end`, on its other axis all of them."""

    axis: int
    begin: int
    end: int

    def shape(self, whole: Shape) -> Shape:
        """The shape of what is held of a tensor with the shape `whole`."""
        return (*whole[: self.axis], self.end - self.begin, *whole[self.axis + 1 :])

    def stored(self, plain: Shape, stored: Shape) -> Cut:
        """This cut, of a matrix of the shape `plain`, as it lies in a tensor of the shape `stored` that is kept for
        the matrix: packed words, scales or biases. Columns are cut between groups; floats of rows are kept whole
        where columns are cut."""
        if self.axis >= len(stored):
            return everything(stored)
        begin, end = (place * stored[self.axis] // plain[self.axis] for place in (self.begin, self.end))
        return Cut(self.axis, begin, end)


def everything(shape: Shape) -> Cut:
    """The cut that leaves a whole tensor."""
    return Cut(0, 0, shape[0])


@dataclass(frozen=True)
class Share:
    """What a part of the model `config` is in full: `held` is the configuration of what the rank holds, as caches and
    budgets need it, with the whole vocabulary; `blocks` are the numbers of its blocks in the whole model; `cuts` says
    what it has of each weight, by name, and leaves out those that it has nothing of."""

    part: Part
    config: ModelConfig
    held: ModelConfig
    blocks: range
    cuts: Mapping[str, Cut]

    @property
    def parameter_count(self) -> int:
        """The number of weights that the rank holds."""
        shapes = self.config.weight_shapes()
        return sum(prod(cut.shape(shapes[name])) for name, cut in self.cuts.items())
