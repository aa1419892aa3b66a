"""Low-rank sums beside a model's products: LoRA, and DoRA, which also sets the length of every row.

Sources: Hu et al. 2021, "LoRA": y = W x + s B A x. Liu et al. 2024, "DoRA": the rows of W + s B A scaled to learned
lengths m, which the gradient takes for constants (section 4.3).
Shapes: I and O what goes into a matrix and comes out of it, R the rank. Arrays lie as mlx-lm's files have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import mlx.core as mx

from elm_mlx.models.matrices import Linear, Product, QuantizedLinear, SideBySide
from elm_mlx.models.model import Model

BLOCK = 4096  # rows of a matrix that are expanded at once


@dataclass(frozen=True)
class LowRank:
    """What is added to one matrix: x @ a @ b, of a [I, R] and b [R, O]; with `m` [O] (DoRA) the rows of the sum have
    these lengths."""

    a: mx.array
    b: mx.array
    m: mx.array | None = None


class Adapted:
    """A product of one or several joined matrices, each of which may have a LowRank beside it: [..., I] -> [..., O].

    `widths` is O of each matrix, `scale` what all sums are multiplied with. `adapters` may be replaced at any time:
    None leaves a matrix as it is.
    """

    def __init__(self, base: Product, widths: Sequence[int], scale: float) -> None:
        self.base, self.widths, self.scale = base, tuple(widths), scale
        self.adapters: list[LowRank | None] = [None] * len(self.widths)
        self._squares: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        y = self.base(x)
        sums = [self._sum(x, one, width) for one, width in zip(self.adapters, self.widths, strict=True)]
        y = y + (self.scale * joined(sums)).astype(y.dtype)
        if any(one and one.m is not None for one in self.adapters):
            y = y * self.factors().astype(y.dtype)
        return y

    @property
    def squares(self) -> mx.array:
        """The sum of squares of each row of the joined matrices, [O] float32; computed once."""
        if self._squares is None:
            self._squares = row_squares(self.base)
        return self._squares

    def factors(self) -> mx.array:
        """By what DoRA multiplies each row: its length m over the length that it has; 1 where there is no m. [O]."""
        ends = list(accumulate(self.widths))
        parts = zip(self.adapters, mx.split(self.squares, ends[:-1]), ends, self.widths, strict=True)
        return joined([self._factor(one, squares, end - width, end) for one, squares, end, width in parts])

    def _factor(self, one: LowRank | None, squares: mx.array, begin: int, end: int) -> mx.array:
        """The factors of one matrix, whose rows are those from `begin` to `end`.

        |w + s d|^2 = |w|^2 + 2 s w.d + s^2 |d|^2 for a row w and its sum d = a @ b: nothing as large as the matrix is
        made, and W a is the product itself, so a quantized matrix need not be expanded.
        """
        if one is None or one.m is None:
            return mx.ones_like(squares)
        a, b, s = one.a.astype(mx.float32), one.b.astype(mx.float32), self.scale
        mixed = self.base(one.a.T)[:, begin:end].astype(mx.float32)  # [R, O]
        length = mx.sqrt(squares + 2 * s * (b * mixed).sum(0) + s * s * (b * ((a.T @ a) @ b)).sum(0))
        return one.m / mx.stop_gradient(length)

    def _sum(self, x: mx.array, one: LowRank | None, width: int) -> mx.array:
        """What is added for one matrix: [..., I] -> [..., O]."""
        return (x @ one.a) @ one.b if one else mx.zeros((*x.shape[:-1], width), x.dtype)


class Place(NamedTuple):
    """Where a model has a product: block, holder and attribute; and the names and widths of the matrices in it."""

    layer: int
    holder: object
    attribute: str
    names: tuple[str, ...]
    widths: tuple[int, ...]
    inputs: int

    @property
    def product(self) -> Product:
        """The product that is there now."""
        product: Product = getattr(self.holder, self.attribute)
        return product

    def put(self, product: Product) -> None:
        """Puts another one there. A model that runs compiled steps has to compile them anew."""
        setattr(self.holder, self.attribute, product)


def places(model: Model) -> Iterator[Place]:
    """The products of a model's blocks that adapters may stand beside, block by block. One that blocks share comes with
    the last of them, so that it is among those of the last blocks, however few."""
    shapes = model.config.weight_shapes()
    for layer, block in enumerate(model.blocks):
        for product, matrices in model.PRODUCTS.items():
            holder, attribute = product.split(".")
            names = tuple(model.stem(layer, name) for name in matrices)
            if layer + 1 < len(model.blocks) and model.stem(layer + 1, matrices[0]) == names[0]:
                continue
            widths = tuple(shapes[f"{name}.weight"][0] for name in names)
            yield Place(layer, getattr(block, holder), attribute, names, widths, shapes[f"{names[0]}.weight"][1])


def row_squares(product: Product) -> mx.array:
    """The sum of squares of every row of a matrix, or of joined ones: [O] float32. A quantized matrix is expanded a
    block of rows at a time."""
    if isinstance(product, SideBySide):
        return joined([row_squares(matrix) for matrix in product.matrices])
    rows = product.columns.T if isinstance(product, Linear) else getattr(product, "weight")  # noqa: B009
    blocks = []
    for begin in range(0, len(rows), BLOCK):
        ids = mx.arange(begin, min(begin + BLOCK, len(rows)))
        expanded = product.rows(ids) if isinstance(product, QuantizedLinear) else rows[ids]
        blocks.append(mx.square(expanded.astype(mx.float32)).sum(-1))
        mx.eval(blocks[-1])
    return joined(blocks)


def joined(arrays: Sequence[mx.array]) -> mx.array:
    """Arrays side by side along their last axis."""
    return arrays[0] if len(arrays) == 1 else mx.concatenate(list(arrays), axis=-1)
