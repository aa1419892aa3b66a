"""The states of all windows of text on their way through one layer, product by product."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

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


class Passage:
    """The way of states through a layer: `states`, one [1, L, E] of each window, are changed in place.

    `inputs(i)` gives the inputs of product i of the layer's four, window after window; then `replace(i, product)` may
    put another in its place. Each product thus gets what those before it give. `finish` ends the way.
    """

    def __init__(self, block: Block, states: list[mx.array]) -> None:
        self.block, self.states = block, states
        self.mixed: list[mx.array] = []  # the results of attention, as the product after it gets them

    def inputs(self, product: int) -> Iterator[mx.array]:
        """The inputs of a product, [1, L, in] of each window in turn."""
        yield from (self._into_qkv, self._into_out, self._into_gate_up, self._into_down)[product]()

    def replace(self, product: int, by: Product) -> None:
        """Puts a product in the place of another."""
        owner, name = (
            (self.block.attn, "qkv"), (self.block.attn, "out"), (self.block.ffn, "gate_up"), (self.block.ffn, "down"),
        )[product]  # fmt: skip
        setattr(owner, name, by)

    def finish(self) -> None:
        """Takes the states to the layer's end."""
        for i, h in enumerate(self.states):
            self.states[i] = h + self.block.ffn(self._normalised(h, 1))
            mx.eval(self.states[i])

    def _into_qkv(self) -> Iterator[mx.array]:
        return (self._normalised(h, 0) for h in self.states)

    def _into_out(self) -> Iterator[mx.array]:
        for h in self.states:
            mixed = join_heads(Uncached().attend(*self.block.before(h, 0)), h.shape)
            self.mixed.append(self.block.attn.before_out(mixed))
            yield self.mixed[-1]

    def _into_gate_up(self) -> Iterator[mx.array]:
        for i, mixed in enumerate(self.mixed):
            self.states[i] = self.states[i] + self.block.attn.out(mixed)
            yield self._normalised(self.states[i], 1)
        self.mixed.clear()

    def _into_down(self) -> Iterator[mx.array]:
        for h in self.states:
            yield self.block.ffn.inner(self._normalised(h, 1))

    def _normalised(self, h: mx.array, which: int) -> mx.array:
        return mx.fast.rms_norm(h, self.block.norms[which], self.block.eps)
