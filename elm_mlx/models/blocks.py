"""A transformer layer as both architectures have it: projections, attention, a gated feed-forward.

Shapes: B batch, L new tokens, S cached positions, H query heads, K kv heads, D head dim, E model dim, F ffn dim,
V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Protocol

import mlx.core as mx

from elm_mlx.device import exponential
from elm_mlx.device.compile import compile_function
from elm_mlx.models.attention import QKV, CacheLayer, join_heads
from elm_mlx.models.matrices import Product
from elm_mlx.models.rope import Offset, Position, Rotation


def silu_gate(gate: mx.array, up: mx.array, fused: bool = False) -> mx.array:
    """silu(gate) * up, elementwise; where it is `fused` to one kernel, its number of operations costs nothing."""
    if exponential.is_slow(gate.dtype, sys.maxsize if fused else gate.size):
        return exponential.silu(gate) * up
    return gate * mx.sigmoid(gate) * up


def relu2_gate(gate: mx.array, up: mx.array, fused: bool = False) -> mx.array:
    """relu(gate)^2 * up, elementwise, the same whether it is `fused` to one kernel or not."""
    return mx.square(mx.maximum(gate, 0)) * up


GateFunction = Callable[..., mx.array]  # of gate and up, and whether it is fused


class Gate:
    """The gate that all blocks of a model share, so that it is compiled, or not, for all of them at once."""

    def __init__(self, plain: GateFunction = silu_gate) -> None:
        self.plain = self.function = plain

    def set_compiled(self, compiled: bool) -> None:
        """Sets whether the gate runs as one compiled kernel."""
        self.function = compile_function(partial(self.plain, fused=True), shapeless=True) if compiled else self.plain

    def __call__(self, gate: mx.array, up: mx.array) -> mx.array:
        return self.function(gate, up)


class Norm:
    """An RMS norm with its weight [n]: [..., n] -> [..., n]."""

    def __init__(self, weight: mx.array, eps: float) -> None:
        self.weight, self.eps = weight, eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.weight, self.eps)


def unchanged(x: mx.array) -> mx.array:
    """Where most architectures have no norm."""
    return x


class FeedForward:
    """down(silu(gate(x)) * up(x)), gate and up in one product: [B, L, E] -> [B, L, E]. An architecture may have another
    gate, and a norm `before_down`."""

    def __init__(
        self, gate_up: Product, down: Product, gate: Gate, before_down: Callable[[mx.array], mx.array] = unchanged
    ) -> None:
        self.gate_up, self.down, self.gate, self.before_down = gate_up, down, gate, before_down

    def inner(self, x: mx.array) -> mx.array:
        """What the product `down` gets: [B, L, E] -> [B, L, F]."""
        gate, up = mx.split(self.gate_up(x), 2, axis=-1)  # [B, L, 2F] -> two of [B, L, F]
        return self.before_down(self.gate(gate, up))

    def __call__(self, x: mx.array) -> mx.array:
        return self.down(self.inner(x))


class Projections(Protocol):
    """What an architecture does around its attention: q, k and v out of states, and `out`, the product after it, whose
    inputs may be normalised by `before_out`."""

    out: Product
    before_out: Callable[[mx.array], mx.array]
    rotate: Rotation

    def __call__(self, x: mx.array, position: Position) -> QKV:
        """[B, L, E] -> q [B, H, L, D] and k, v [B, K, L, D], q and k rotated by their position."""
        ...


class Block:
    """A pre-norm layer: h + out(attention(qkv(norm(h)))), then h + ffn(norm(h)).

    Its two halves have no side effects; the attention between them writes to the cache.
    """

    def __init__(self, attn: Projections, ffn: FeedForward, norms: tuple[mx.array, mx.array], eps: float) -> None:
        self.attn, self.ffn, self.norms, self.eps = attn, ffn, norms, eps

    def __call__(self, h: mx.array, cache: CacheLayer, position: Position) -> mx.array:
        """States [B, L, E] of new tokens at this `position`, as `prepare` gives it -> states [B, L, E]."""
        q, k, v = self.before(h, position)
        return self.after(h, cache.attend(q, k, v))

    def last(self, h: mx.array, cache: CacheLayer, position: Position) -> mx.array:
        """The state of the last position alone, [B, L, E] -> [B, 1, E]: the others only need keys and values."""
        q, k, v = self.before(h, position)
        return self.after(h[:, -1:], cache.attend(q[:, :, -1:], k, v))

    def prepare(self, offset: Offset, count: int) -> Position:
        """The position of `count` new tokens of each row, from `offset` on; it serves all layers."""
        return self.attn.rotate.prepare(offset, count, self.norms[0].dtype)

    def before(self, h: mx.array, position: Position) -> QKV:
        """The half before attention: states [B, L, E] -> queries, keys and values."""
        return self.attn(mx.fast.rms_norm(h, self.norms[0], self.eps), position)

    def after(self, h: mx.array, mixed: mx.array) -> mx.array:
        """The half after attention: h [B, L, E] and the result of attention [B, H, L, D] -> [B, L, E]."""
        h = h + self.attn.out(self.attn.before_out(join_heads(mixed, h.shape)))
        return h + self.ffn(mx.fast.rms_norm(h, self.norms[1], self.eps))
