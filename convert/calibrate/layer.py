"""The states of all windows of text on their way through one layer, product by product."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import cycle

import mlx.core as mx

from elm_mlx.convert.calibrate.places import Place
from elm_mlx.models.attention import Uncached, join_heads
from elm_mlx.models.blocks import Block
from elm_mlx.models.matrices import Product

# The matrices of layer {}, by family, in the order in which states pass them. Those in one bracket get the same inputs.
MATRICES: dict[str, tuple[tuple[str, ...], ...]] = {
    "openelm": (
        ("transformer.layers.{}.attn.qkv_proj",),
        ("transformer.layers.{}.attn.out_proj",),
        ("transformer.layers.{}.ffn.proj_1",),
        ("transformer.layers.{}.ffn.proj_2",),
    ),
    "llama": (
        ("model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.k_proj", "model.layers.{}.self_attn.v_proj"),
        ("model.layers.{}.self_attn.o_proj",),
        ("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj"),
        ("model.layers.{}.mlp.down_proj",),
    ),
}
MATRICES["bitnet"] = MATRICES["llama"]
AHEAD = 4  # windows that MLX computes while the one before them is multiplied


class Passage:
    """The way of states through a layer: `states`, one [1, L, E] of each window, are changed in place. Windows take
    turns at the `places` where they are computed.

    `inputs(i)` gives the inputs of product i of the layer's four, window after window; then `replace(i, product)` may
    put another in its place. Each product thus gets what those before it give. `finish` ends the way.
    """

    def __init__(self, block: Block, states: list[mx.array], places: Sequence[Place] = (nullcontext(),)) -> None:
        self.block, self.states, self.places = block, states, places
        self.mixed: dict[int, mx.array] = {}  # the results of attention, as the product after it gets them

    def inputs(self, product: int) -> Iterator[mx.array]:
        """The inputs of a product, [1, L, in] of each window in turn."""
        return self._each((self._into_qkv, self._into_out, self._into_gate_up, self._into_down)[product])

    def replace(self, product: int, by: Product) -> None:
        """Puts a product in the place of another."""
        owner, name = (
            (self.block.attn, "qkv"), (self.block.attn, "out"), (self.block.ffn, "gate_up"), (self.block.ffn, "down"),
        )[product]  # fmt: skip
        setattr(owner, name, by)

    def finish(self) -> None:
        """Takes the states to the layer's end."""
        for _ in self._each(self._to_end):
            pass

    def _each(self, step: Callable[[int], mx.array]) -> Iterator[mx.array]:
        """What a step gives for each window in turn, computed ahead."""
        return ahead(self._at(place, step, i) for i, place in zip(range(len(self.states)), cycle(self.places)))

    def _at(self, place: Place, step: Callable[[int], mx.array], window: int) -> mx.array:
        with place:
            return step(window)

    def _into_qkv(self, window: int) -> mx.array:
        return self._normalised(window, 0)

    def _into_out(self, window: int) -> mx.array:
        h = self.states[window]
        mixed = join_heads(Uncached().attend(*self.block.before(h, 0)), h.shape)
        self.mixed[window] = self.block.attn.before_out(mixed)
        return self.mixed[window]

    def _into_gate_up(self, window: int) -> mx.array:
        self.states[window] = self.states[window] + self.block.attn.out(self.mixed.pop(window))
        return self._normalised(window, 1)

    def _into_down(self, window: int) -> mx.array:
        return self.block.ffn.inner(self._normalised(window, 1))

    def _to_end(self, window: int) -> mx.array:
        self.states[window] = self.states[window] + self.block.ffn(self._normalised(window, 1))
        return self.states[window]

    def _normalised(self, window: int, which: int) -> mx.array:
        return mx.fast.rms_norm(self.states[window], self.block.norms[which], self.block.eps)


def ahead(arrays: Iterable[mx.array]) -> Iterator[mx.array]:
    """Gives arrays out in turn; while the caller has one, MLX computes the next ones."""
    begun: deque[mx.array] = deque()
    for array in arrays:
        mx.async_eval(array)
        begun.append(array)
        if len(begun) > AHEAD:
            yield begun.popleft()
    while begun:
        yield begun.popleft()
