"""The arrays of a model that training changes, by their names in an adapter's file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import mlx.core as mx

from elm_mlx.models.blocks import Block
from elm_mlx.models.lora import Adapted, LowRank, Place, places
from elm_mlx.models.model import Model
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.store.adapters.write import Written, write_adapter
from elm_mlx.train.training import Arrays


@dataclass(frozen=True)
class AdapterShape:
    """How an adapter is laid out: `rank` of each sum, the `scale` that it is multiplied with, whether rows get lengths
    (`dora`), in how many of the last `layers` (None: all), and beside which `targets`: ends of matrices' names, as
    "q_proj" (None: all matrices of a layer)."""

    rank: int = 8
    scale: float = 20.0
    dora: bool = False
    layers: int | None = None
    targets: tuple[str, ...] | None = None

    def has(self, name: str) -> bool:
        """Whether a matrix of this name gets a sum."""
        return self.targets is None or name.endswith(tuple(f".{target}" for target in self.targets))


class AdapterArrays:
    """The arrays of an adapter beside the products of a model, which has them from now on. `begin` gives the arrays at
    the start; `put` has the model use others."""

    def __init__(self, model: Model, shape: AdapterShape) -> None:
        self.model, self.shape = model, shape
        self._blocks = list(model.blocks)
        first = 0 if shape.layers is None else len(model.blocks) - shape.layers
        self.places = [place for place in places(model) if place.layer >= first and any(map(shape.has, place.names))]
        self.adapted = [adapt(place, shape.scale) for place in self.places]

    def begin(self, key: mx.array) -> Arrays:
        """Arrays that change nothing yet: each `a` is uniform within 1 / sqrt(inputs), each `b` is 0, each `m` is the
        length that a row has. The same key gives the same ones."""
        arrays: Arrays = {}
        named = list(self._named())
        for (name, place, adapted, part), own in zip(named, mx.random.split(key, len(named)), strict=True):
            bound, width = 1 / sqrt(place.inputs), place.widths[part]
            arrays[f"{name}.lora_a"] = mx.random.uniform(-bound, bound, (place.inputs, self.shape.rank), key=own)
            arrays[f"{name}.lora_b"] = mx.zeros((self.shape.rank, width))
            if self.shape.dora:
                begin = sum(place.widths[:part])
                arrays[f"{name}.m"] = mx.sqrt(adapted.squares[begin : begin + width])
        mx.eval(arrays)
        return arrays

    def put(self, arrays: Mapping[str, mx.array]) -> None:
        """Has the model compute with these arrays."""
        sums = self.low_ranks(arrays)
        for name, _, adapted, part in self._named():
            adapted.adapters[part] = sums[name]

    def held(self) -> int:
        """Bytes of weights that the model holds: what MLX has in memory, as the model is loaded."""
        return mx.get_active_memory()

    def base(self, begun: Arrays) -> Model:
        """The model without the adapter, until arrays are put beside it."""
        for adapted in self.adapted:
            adapted.adapters = [None] * len(adapted.widths)
        return self.model

    def with_arrays(self, arrays: Arrays) -> Model:
        """The model that computes with these arrays, until others are given."""
        self.put(arrays)
        return self.model

    def layer_names(self, layer: int) -> list[str]:
        """The names of the arrays beside a layer, those that it shares with others too."""
        parts = "lora_a", "lora_b", *["m"] * self.shape.dora
        return [f"{name}.{part}" for name, *_ in self._named(self._blocks[layer]) for part in parts]

    def block(self, layer: int, arrays: Arrays) -> Block:
        """A layer that computes with its arrays, until others are put there."""
        block = self._blocks[layer]
        for name, _, adapted, part in self._named(block):
            adapted.adapters[part] = low_rank(arrays, name)
        return block

    def write(self, output: Path, arrays: Arrays, base: Base) -> None:
        """Writes the adapter in mlx-lm's layout. Raises DiskFull, ElmError."""
        write_adapter(output, Written(self.low_ranks(arrays), base, self.shape.scale), self.model.config)

    def low_ranks(self, arrays: Mapping[str, mx.array]) -> dict[str, LowRank]:
        """The arrays as sums, by the names of their matrices. They are not multiplied with the scale."""
        return {name: low_rank(arrays, name) for name, *_ in self._named()}

    def _named(self, block: Block | None = None) -> Iterator[tuple[str, Place, Adapted, int]]:
        """(name, place, product, number within it) of every matrix that has a sum; with `block` of those in it."""
        for place, adapted in zip(self.places, self.adapted, strict=True):
            if block is None or any(place.holder is part for part in vars(block).values()):
                for part, name in enumerate(place.names):
                    if self.shape.has(name):
                        yield name, place, adapted, part


def low_rank(arrays: Mapping[str, mx.array], name: str) -> LowRank:
    """The sum beside one matrix."""
    return LowRank(arrays[f"{name}.lora_a"], arrays[f"{name}.lora_b"], arrays.get(f"{name}.m"))


def adapt(place: Place, scale: float) -> Adapted:
    """Puts an Adapted round the product at a place."""
    adapted = Adapted(place.product, place.widths, scale)
    place.put(adapted)
    return adapted
