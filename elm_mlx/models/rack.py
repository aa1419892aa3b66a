"""Adapters beside a loaded model: models that share its arrays, with one adapter for all rows or each row's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy

import mlx.core as mx

from elm_mlx.models.blocks import Block
from elm_mlx.models.compiled import CompiledStep
from elm_mlx.models.lora import LowRank, places
from elm_mlx.models.matrices import Product
from elm_mlx.models.model import Model
from elm_mlx.models.pairs import OnePair, Pair, PairOfEachRow, Stack, pair_of


class Rack:
    """The adapters of a model, by numbers that the caller gives. The model itself is never changed."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._pairs: dict[int, list[Pair | None]] = {}  # of each adapter, by place
        self._ranks: dict[int, list[int]] = {}  # their own, before they were filled
        self._stacks: list[Stack | None] = []
        self._alone: dict[int, Model] = {}
        self._mixed: Model | None = None
        self._which: list[mx.array] = []  # as PairOfEachRow takes it
        self._arrange()

    @property
    def nbytes(self) -> int:
        """The bytes of all adapters as they run."""
        return sum(array.nbytes for stack in self._stacks if stack for array in stack.arrays())

    def __contains__(self, number: object) -> bool:
        return number in self._pairs

    def bytes_with(self, arrays: Mapping[str, LowRank]) -> int:
        """At most so many bytes all adapters take with another one, whose sums are `arrays`."""
        total = 0
        for place, stack in zip(places(self.model), self._stacks, strict=True):
            there = [arrays[name].a.shape[1] for name in place.names if name in arrays]
            rank = max(stack.a.shape[2] if stack else 0, sum(there))
            width = sum(place.widths)
            total += (2 + len(self._pairs)) * (rank * (place.inputs + width) + width) * self.model.dtype.size
        return total

    def put(self, number: int, arrays: Mapping[str, LowRank]) -> None:
        """Adds an adapter, whose sums have scale 1, by the names of their matrices."""
        found: list[Pair | None] = []
        for place in places(self.model):
            sums = [arrays.get(name) for name in place.names]
            found.append(pair_of(place, sums) if any(sums) else None)
        self._pairs[number] = found
        self._ranks[number] = [pair.a.shape[1] if pair else 0 for pair in found]
        self._arrange()

    def drop(self, number: int) -> None:
        """Takes an adapter away."""
        del self._pairs[number], self._ranks[number]
        self._arrange()

    def alone(self, number: int) -> Model:
        """The model with one adapter for all rows."""
        if number not in self._alone:
            row = [*self._pairs].index(number) + 1
            own = [stack if pair else None for stack, pair in zip(self._stacks, self._pairs[number], strict=True)]
            self._alone[number] = beside(self.model, own, lambda product, stack: OnePair(product, stack.pair(row)))
        return self._alone[number]

    def mixed(self, numbers: Sequence[int | None]) -> Model:
        """The model with each row's own adapter, None for none. It serves these rows until it is asked for others."""
        order = [None, *self._pairs]
        self._which[0] = mx.array([order.index(number) for number in numbers], mx.uint32)
        self._which[1] = mx.array([*range(len(numbers))], mx.uint32)
        if self._mixed is None:
            which = self._which
            self._mixed = beside(
                self.model, self._stacks, lambda product, stack: PairOfEachRow(product, stack, which), which
            )
        return self._mixed

    def _arrange(self) -> None:
        """Stacks all pairs anew, and lets go of the models with those before."""
        cut = {number: [*map(cut_to, pairs, self._ranks[number])] for number, pairs in self._pairs.items()}
        stacks: list[Stack | None] = []
        for index, place in enumerate(places(self.model)):
            pairs = [pairs[index] for pairs in cut.values()]
            stack = Stack(pairs, place.inputs, sum(place.widths), self.model.dtype) if any(pairs) else None
            stacks.append(stack)
            for row, number in enumerate(self._pairs, 1):
                if self._pairs[number][index] is not None and stack:
                    self._pairs[number][index] = stack.pair(row)
        self._stacks, self._alone, self._mixed = stacks, {}, None
        self._which = [mx.array([], mx.uint32)] * 2


def cut_to(pair: Pair | None, rank: int) -> Pair | None:
    """A pair without what it was filled with."""
    return pair and pair._replace(a=pair.a[:, :rank], b=pair.b[:rank])


def beside(
    model: Model,
    stacks: Sequence[Stack | None],
    product_of: Callable[[Product, Stack], Product],
    which: list[mx.array] | None = None,
) -> Model:
    """A model of the same arrays, whose products are replaced where there is a stack. What `which` holds is an input of
    its compiled steps."""
    other = copy(model)
    other.blocks = copies_of(model.blocks)
    for place, stack in zip(places(other), stacks, strict=True):
        if stack:
            place.put(product_of(place.product, stack))
    other.step = CompiledStep(other.embedding.rows, other.layers, other._normalised, which) if model.step else None
    return other


def copies_of(blocks: Sequence[Block]) -> list[Block]:
    """Blocks whose products can be replaced, of the same arrays. A feed-forward that blocks share stays shared."""
    others, shared = list(map(copy, blocks)), {id(block.ffn): copy(block.ffn) for block in blocks}
    for other in others:
        other.attn, other.ffn = copy(other.attn), shared[id(other.ffn)]
    return others
