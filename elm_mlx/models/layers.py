"""What both architectures share: products with plain or quantized rows, RoPE, attention, the gate.

Shapes: B batch, L new tokens, S cached positions, H query heads, K kv heads, D head dim, E model dim, F ffn dim,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping, Sequence
from typing import Protocol

import mlx.core as mx

from elm_mlx import config as configs
from elm_mlx.config.quantization import Quantization

Gate = Callable[[mx.array, mx.array], mx.array]
Offset = int | mx.array  # a scalar; an array where a compiled step must not be traced anew for each
QKV = tuple[mx.array, mx.array, mx.array]


class CacheLayer(Protocol):
    """One layer's keys and values: `offset` positions are held, and `trim(n)` forgets the last n."""

    offset: int

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends [B, K, L, D] and returns all that is held, [B, K, S, D]."""
        ...

    def trim(self, n: int) -> int:
        """Forgets the last `n` positions and returns how many there were to forget."""
        ...


Cache = Sequence[CacheLayer]


class Product(Protocol):
    """A matrix of rows, or several side by side."""

    def __call__(self, x: mx.array) -> mx.array:
        """[..., in] -> [..., out]."""
        ...


class Matrix(Product, Protocol):
    """Rows [out, in] that multiply activations, or that ids look up (an embedding)."""

    def rows(self, ids: mx.array) -> mx.array:
        """The rows of `ids`: [B, L] -> [B, L, in]."""
        ...


class Linear:
    """A Matrix as it is."""

    def __init__(self, weight: mx.array) -> None:
        self.weight = weight

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight.T  # [..., in] -> [..., out]

    def rows(self, ids: mx.array) -> mx.array:
        """The rows of `ids`: [B, L] -> [B, L, in]."""
        return self.weight[ids]


class QuantizedLinear:
    """A Matrix in which the columns of a row share a scale (and, affine, a bias) in groups."""

    def __init__(self, arrays: Sequence[mx.array], setting: Quantization, dtype: mx.Dtype) -> None:
        self.weight, self.scales, *biases = arrays
        self.biases = biases[0] if biases else None
        self.setting, self.dtype = setting, dtype

    def __call__(self, x: mx.array) -> mx.array:
        q = self.setting
        return mx.quantized_matmul(
            x, self.weight, self.scales, self.biases, True, q.group_size, q.bits, q.mode
        )  # [..., in] -> [..., out]

    def rows(self, ids: mx.array) -> mx.array:
        """The rows of `ids`, expanded: [B, L] -> [B, L, in]."""
        q, biases = self.setting, None if self.biases is None else self.biases[ids]
        return mx.dequantize(self.weight[ids], self.scales[ids], biases, q.group_size, q.bits, q.mode, dtype=self.dtype)


class Rows:
    """Several matrices of one input, side by side, where their storage differs and they cannot be one."""

    def __init__(self, matrices: Sequence[Matrix]) -> None:
        self.matrices = matrices

    def __call__(self, x: mx.array) -> mx.array:
        return mx.concatenate([matrix(x) for matrix in self.matrices], axis=-1)


class Parameters:
    """The named arrays a model is built from. Each is handed out once, so what remains was not wanted.

    `dtype` is the type of the activations; floats are cast to it, so that nothing promotes. `ready` is called
    with the arrays of each parameter as it is handed out: whoever loads decides when they are evaluated, and by
    `linear` what a matrix of floats becomes.
    """

    def __init__(
        self,
        arrays: MutableMapping[str, mx.array],
        quantization: Quantization | None,
        dtype: mx.Dtype,
        ready: Callable[..., None] = lambda *arrays: None,
        linear: Callable[[mx.array], Matrix] = Linear,
    ) -> None:
        self.arrays, self.quantization, self.dtype = arrays, quantization, dtype
        self.ready, self.linear_of = ready, linear

    def vector(self, name: str) -> mx.array:
        """A norm's weight."""
        vector = self._floats(self.arrays.pop(f"{name}.weight"))
        self.ready(vector)
        return vector

    def linear(self, name: str) -> Matrix:
        """A matrix as it is stored."""
        return self._matrix(*self._stored(name))

    def fused(self, *names: str) -> Product:
        """Matrices of one input as one product: rows are quantized alone, so joining them is exact."""
        stored = [self._stored(name) for name in names]
        if any(setting != stored[0][1] for _, setting in stored):
            return Rows([self._matrix(*one) for one in stored])
        joined = [mx.concatenate(list(column)) for column in zip(*(arrays for arrays, _ in stored), strict=True)]
        return self._matrix(joined, stored[0][1])

    def _stored(self, name: str) -> tuple[list[mx.array], Quantization | None]:
        """The arrays of one matrix and how they are quantized, if they are."""
        if f"{name}.scales" not in self.arrays or self.quantization is None:
            return [self._floats(self.arrays.pop(f"{name}.weight"))], None
        kinds = [kind for kind in ("weight", "scales", "biases") if f"{name}.{kind}" in self.arrays]
        arrays = [self._floats(self.arrays.pop(f"{name}.{kind}")) for kind in kinds]
        return arrays, self.quantization.setting(name)

    def _floats(self, array: mx.array) -> mx.array:
        """Floats in the model's type; packed words and 8-bit scales as they are."""
        return array.astype(self.dtype) if mx.issubdtype(array.dtype, mx.floating) else array

    def _matrix(self, arrays: list[mx.array], setting: Quantization | None) -> Matrix:
        self.ready(*arrays)
        return QuantizedLinear(arrays, setting, self.dtype) if setting else self.linear_of(*arrays)


class Rope:
    """Rotates pairs half a head apart by their position (the Hugging Face layout, `traditional=False`)."""

    def __init__(self, rope: configs.Rope, head_dim: int) -> None:
        self.dims = head_dim
        self.base: float | None = None if rope.kind == "llama3" else rope.theta
        self.scale = 1 / rope.factor if rope.kind == "linear" else 1.0
        self.freqs = llama3_periods(rope, head_dim) if rope.kind == "llama3" else None

    def __call__(self, x: mx.array, offset: Offset) -> mx.array:
        """[B, heads, L, D] -> the same, the first new token at position `offset`."""
        return mx.fast.rope(
            x, self.dims, traditional=False, base=self.base, scale=self.scale, offset=offset, freqs=self.freqs
        )


def llama3_periods(rope: configs.Rope, head_dim: int) -> mx.array:
    """1 / frequency of each pair, (D/2,) float32: slow pairs divided by `factor`, fast ones kept, a blend between.

    Source: transformers modeling_rope_utils `llama3`; llama-models models/llama3/model.py `apply_scaling`.
    """
    original, low, high = rope.original_context, rope.low_freq_factor, rope.high_freq_factor
    periods = []
    for i in range(0, head_dim, 2):
        frequency = rope.theta ** (-i / head_dim)
        turns = original * frequency / (2 * math.pi)  # how often the pair turns within the original context
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        periods.append(1 / ((1 - kept) * frequency / rope.factor + kept * frequency))
    return mx.array(periods, dtype=mx.float32)


def attention(q: mx.array, k: mx.array, v: mx.array, cache: CacheLayer | None) -> mx.array:
    """Causal attention of new queries over all positions held: q [B, H, L, D], k and v [B, K, L, D] -> [B, H, L, D]."""
    if cache is not None:
        k, v = cache.update_and_fetch(k, v)  # [B, K, S, D]
    mask = "causal" if q.shape[2] > 1 else None
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[3] ** -0.5, mask=mask)


def split_heads(x: mx.array, head_dim: int) -> mx.array:
    """[B, L, heads * D], or [B, heads * D] of one position -> [B, heads, L, D]."""
    B, *positions, width = x.shape
    heads = width // head_dim
    if not positions:
        return x.reshape(B, heads, 1, head_dim)
    return x.reshape(B, *positions, heads, head_dim).swapaxes(1, 2)


def join_heads(x: mx.array, shape: Sequence[int]) -> mx.array:
    """[B, heads, L, D] -> [B, L, heads * D], or [B, heads * D]: the `shape` of states but for the last axis."""
    return (x if x.shape[2] == 1 else x.swapaxes(1, 2)).reshape(*shape[:-1], -1)


def silu_gate(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up, elementwise."""
    return gate * mx.sigmoid(gate) * up


class FeedForward:
    """down(silu(gate(x)) * up(x)), gate and up in one product: [B, L, E] -> [B, L, E]."""

    def __init__(self, gate_up: Product, down: Matrix, gate: Gate) -> None:
        self.gate_up, self.down, self.gate = gate_up, down, gate

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = mx.split(self.gate_up(x), 2, axis=-1)  # [B, L, 2F] -> two of [B, L, F]
        return self.down(self.gate(gate, up))


class Projections(Protocol):
    """What an architecture does around its attention: q, k and v out of states, and `out`, the product after it."""

    out: Matrix

    def __call__(self, x: mx.array, offset: Offset) -> QKV:
        """[B, L, E] -> q [B, H, L, D] and k, v [B, K, L, D], q and k rotated from position `offset` on."""
        ...


class Block:
    """A pre-norm layer: h + out(attention(qkv(norm(h)))), then h + ffn(norm(h)).

    Its two halves are pure; the attention between them writes to the cache.
    """

    def __init__(self, attn: Projections, ffn: FeedForward, norms: tuple[mx.array, mx.array], eps: float) -> None:
        self.attn, self.ffn, self.norms, self.eps = attn, ffn, norms, eps

    def __call__(self, h: mx.array, cache: CacheLayer | None = None) -> mx.array:
        q, k, v = self.before(h, cache.offset if cache is not None else 0)
        return self.after(h, attention(q, k, v, cache))

    def last(self, h: mx.array, cache: CacheLayer | None = None) -> mx.array:
        """The same for the last position alone, [B, L, E] -> [B, 1, E]: of the others keys and values are enough."""
        q, k, v = self.before(h, cache.offset if cache is not None else 0)
        return self.after(h[:, -1:], attention(q[:, :, -1:], k, v, cache))

    def before(self, h: mx.array, offset: Offset) -> QKV:
        """The half before attention."""
        return self.attn(mx.fast.rms_norm(h, self.norms[0], self.eps), offset)

    def after(self, h: mx.array, mixed: mx.array) -> mx.array:
        """The half after it: h [B, L, E] and what attention mixed, [B, H, L, D] -> [B, L, E]."""
        h = h + self.attn.out(join_heads(mixed, h.shape))
        return h + self.ffn(mx.fast.rms_norm(h, self.norms[1], self.eps))
