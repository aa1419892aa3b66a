"""The moments of a product's inputs, which say what an error in its matrix costs.

The moments H are the sum of x xᵀ over the inputs x. Where a matrix W is stored as Q, the squared error of the product
over these inputs is the trace of (W - Q) H (W - Q)ᵀ: the sum over rows of the error times H times the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf

import mlx.core as mx
import numpy as np

from elm_mlx.errors import NotFinite

DAMPING = 0.01  # of the mean of the diagonal: in directions that the text says nothing of, errors cost a little, too
DOUBT = 1.0  # the same for as many inputs as there are columns; few inputs say little of what others will be
TINY = 1e-37  # a mean below this is no float32 to divide by
ROWS = 2048  # inputs that are multiplied at once: with 512, adding up wide products would take as long as they do


class Moments:
    """Moments [C, C] of `count` inputs, made comparable and damped.

    `cost` is symmetric: the moments in units of the mean of their diagonal, which is raised by `damping`. `factor` is
    the upper triangular U for which UᵀU is the inverse of `cost`. Both are float32.
    """

    def __init__(self, plain: np.ndarray, count: float = inf) -> None:
        mean = float(plain.diagonal().mean(dtype=np.float64))
        self.cost = plain / np.float32(mean if mean > TINY else 1)
        diagonal = self.cost.diagonal().copy()
        self.damping = np.float32(DAMPING + DOUBT * len(plain) / count)
        while True:
            np.fill_diagonal(self.cost, diagonal + self.damping)
            try:
                self.factor = inverse_factor(self.cost)
                return
            except np.linalg.LinAlgError:  # sums in float32 may be a little off
                self.damping *= 4

    def lost(self, errors: np.ndarray) -> np.ndarray:
        """The squared error of each row's product over the inputs, [R], for errors [C, R] in the weights, in the units
        of `cost` and without the damping."""
        squares: np.ndarray = (errors * (self.cost @ errors - self.damping * errors)).sum(0)
        return squares


def moments_of(inputs: Iterable[mx.array], names: list[str]) -> Moments:
    """The moments of inputs [1, L, C], window after window, of the matrices `names`.

    Raises NotFinite where the inputs are NaN or infinite, or their squares are.
    """
    total, count = None, 0
    with np.errstate(over="ignore", invalid="ignore"):
        for states in joined(inputs):
            count += len(states)
            products = states.T @ states
            total = products if total is None else np.add(total, products, out=total)
    assert total is not None, "there is at least one window"
    if not np.isfinite(total).all():
        raise NotFinite(f"On the text to calibrate on, what goes into {' and '.join(names)} is NaN or infinite: the "
                        "weights before it are damaged, or overflow. Fetch the source again;",
                        "without {calibrate} it is converted all the same.")  # fmt: skip
    return Moments(total, count)


def joined(inputs: Iterable[mx.array]) -> Iterator[np.ndarray]:
    """Inputs [1, L, C] -> the same, ROWS at least in each but the last, [N, C]."""
    held: list[np.ndarray] = []
    for array in inputs:
        held.append(np.array(memoryview(array[0])))  # type: ignore[arg-type]  # waits for this array alone
        if sum(map(len, held)) >= ROWS:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def inverse_factor(matrix: np.ndarray) -> np.ndarray:
    """The upper triangular U for which UᵀU is the inverse of a symmetric matrix: where that is VVᵀ with V upper
    triangular, U is the inverse of V. Raises numpy's LinAlgError where there is none."""
    lower = np.linalg.cholesky(matrix[::-1, ::-1].astype(np.float64))  # of both axes turned; turned back, it is V
    return inverse_triangle(np.ascontiguousarray(lower[::-1, ::-1], np.float32))


def inverse_triangle(upper: np.ndarray) -> np.ndarray:
    """The inverse of an upper triangular matrix, from the inverses of its two diagonal blocks."""
    half = len(upper) // 2
    if half < 16:
        return np.linalg.inv(upper)
    inverse = np.zeros_like(upper)
    inverse[:half, :half] = first = inverse_triangle(upper[:half, :half])
    inverse[half:, half:] = second = inverse_triangle(upper[half:, half:])
    inverse[:half, half:] = -first @ upper[:half, half:] @ second
    return inverse
