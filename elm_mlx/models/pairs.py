"""Low-rank sums beside products as they run: a pair of matrices a product, one adapter's for all rows of a batch, or
each row's own.

Shapes: B batch, I and O what goes into a product and comes out of it, R the rank, N adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import mlx.core as mx

from elm_mlx.models.lora import Adapted, LowRank, Place
from elm_mlx.models.matrices import Product


class Pair(NamedTuple):
    """An adapter's sum beside one product, whatever that joins: x @ a @ b, of a [I, R] and b [R, O]. The result is then
    multiplied with `factors` [O], if there are some (DoRA)."""

    a: mx.array
    b: mx.array
    factors: mx.array | None = None


def pair_of(place: Place, sums: Sequence[LowRank | None]) -> Pair:
    """Joins the sums beside the matrices of one product, each of scale 1 and some perhaps missing, in float32: their a
    side by side, their b as blocks on a diagonal. DoRA's factors are computed here, once."""
    there = [one for one in sums if one]
    a = mx.concatenate([one.a for one in there], axis=1)
    ends, rows = list(accumulate(place.widths)), []
    for one, end, width in zip(sums, ends, place.widths, strict=True):
        if one:
            rows.append(mx.pad(one.b, [(0, 0), (end - width, ends[-1] - end)]))
    pair = Pair(a, mx.concatenate(rows), factors_of(place, sums))
    mx.eval(pair)
    return pair


def factors_of(place: Place, sums: Sequence[LowRank | None]) -> mx.array | None:
    """By what DoRA multiplies each row of a product, [O]; None where no matrix has learned lengths."""
    if not any(one and one.m is not None for one in sums):
        return None
    adapted = Adapted(place.product, place.widths, scale=1.0)
    adapted.adapters = list(sums)
    return adapted.factors()


class Stack:
    """The pairs of several adapters beside one product, as arrays: `a` [N, I, R], `b` [N, R, O], and `factors` [N, O]
    where any of them has some. The first is that of no adapter: zeros, and factors of 1. Smaller ranks are filled with
    zeros."""

    def __init__(self, pairs: Sequence[Pair | None], inputs: int, outputs: int, dtype: mx.Dtype) -> None:
        rank = max(pair.a.shape[1] for pair in pairs if pair)
        none = Pair(mx.zeros((inputs, rank)), mx.zeros((rank, outputs)))
        filled = [none, *(with_rank(pair, rank) if pair else none for pair in pairs)]
        self.a = mx.stack([pair.a for pair in filled]).astype(dtype)
        self.b = mx.stack([pair.b for pair in filled]).astype(dtype)
        can_gather(dtype)  # now: within a step that is compiled nothing can be tried
        self.factors: mx.array | None = None
        if any(pair.factors is not None for pair in filled):
            ones = mx.ones(outputs)
            each = [ones if pair.factors is None else pair.factors for pair in filled]
            self.factors = mx.stack(each).astype(dtype)
        mx.eval(self.arrays())

    def arrays(self) -> list[mx.array]:
        """The arrays that there are."""
        return [self.a, self.b, *([] if self.factors is None else [self.factors])]

    def pair(self, number: int) -> Pair:
        """The pair of one adapter, as views of the stack's memory."""
        factors = None if self.factors is None else self.factors[number]
        pair = Pair(self.a[number], self.b[number], factors)
        mx.eval(pair)
        return pair


class OnePair:
    """A product with one adapter's pair beside it: [..., I] -> [..., O]."""

    def __init__(self, base: Product, pair: Pair) -> None:
        self.base, self.pair = base, pair

    def __call__(self, x: mx.array) -> mx.array:
        a, b, factors = self.pair
        flat = x.reshape(-1, x.shape[-1])  # once: else each of the three products flattens, and shapes its result again
        y = mx.addmm(self.base(flat), flat @ a, b)
        return (y if factors is None else y * factors).reshape(*x.shape[:-1], -1)


class PairOfEachRow:
    """A product with a stack of pairs beside it, of which each row of a batch uses its own: [B, I] -> [B, O], or
    [B, L, I] -> [B, L, O]. `which` holds the number of each row's pair and the number of each row, two arrays [B]; what
    it holds is looked up at each call."""

    def __init__(self, base: Product, stack: Stack, which: list[mx.array]) -> None:
        self.base, self.stack, self.which = base, stack, which

    def __call__(self, x: mx.array) -> mx.array:
        tall = x[:, None] if x.ndim == 2 else x  # [B, L, I]
        added = product_of_rows(product_of_rows(tall, self.stack.a, self.which), self.stack.b, self.which)  # [B, L, O]
        y = self.base(x) + (added.squeeze(1) if x.ndim == 2 else added)
        if self.stack.factors is None:
            return y
        factors = self.stack.factors[self.which[0]]  # [B, O]
        return y * (factors if x.ndim == 2 else factors[:, None])


def product_of_rows(x: mx.array, matrices: mx.array, which: Sequence[mx.array]) -> mx.array:
    """Multiplies each row of a batch with its own matrix: x [B, L, I], matrices [N, I, O], `which` as PairOfEachRow has
    it -> [B, L, O]."""
    if can_gather(matrices.dtype):
        return mx.gather_mm(x, matrices, which[1], which[0])
    return x @ matrices[which[0]]


@cache
def can_gather(dtype: mx.Dtype) -> bool:
    """Whether MLX multiplies gathered matrices of this type here: not every backend does for every type."""
    try:
        one = mx.zeros((1, 1, 1), dtype)
        mx.eval(mx.gather_mm(one, one, rhs_indices=mx.array([0], mx.uint32)))
    except RuntimeError:
        return False
    return True


def with_rank(pair: Pair, rank: int) -> Pair:
    """A pair filled with zeros up to a rank."""
    more = rank - pair.a.shape[1]
    if not more:
        return pair
    return pair._replace(a=mx.pad(pair.a, [(0, 0), (0, more)]), b=mx.pad(pair.b, [(0, more), (0, 0)]))
