"""Rounds a matrix so that its product changes least on given inputs, by moving each column's error into later columns.

The method is GPTQ (Frantar and others 2022, arXiv 2210.17323). A matrix W, whose rows multiply inputs x, is stored as
Q. With H the sum of x xᵀ, the squared error over all inputs is the trace of (W - Q) H (W - Q)ᵀ. Column after column
goes to its nearest numbers; what that loses is made up for, as well as can be, by the columns that are still free. With
H⁻¹ = UᵀU, U upper triangular, the best target for column j is W[:, j] less the sum over i < j of e_i U[i, j], where e_i
is what column i missed its target by, divided by U[i, i].

Matrices are turned here: [C, R] for C columns and R rows, so that a column lies in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from elm_mlx.convert.calibrate.grid import Grid, Scales

DAMPING = 0.01  # of the mean of the diagonal: what few inputs leave open stays near its nearest number


@dataclass(frozen=True)
class Rounded:
    """A matrix on a grid: codes [C, R] and scales [G, R]."""

    codes: np.ndarray
    scales: Scales

    def values(self, grid: Grid) -> np.ndarray:
        """The matrix as it will be read, [C, R]."""
        return grid.values(self.codes, self.scales.spread(len(self.codes)))


def compensate(weights: np.ndarray, moments: np.ndarray, grid: Grid) -> Rounded:
    """Rounds weights [C, R] for inputs with `moments` [C, C]."""
    factor = inverse_factor(moments)
    codes, errors = np.empty(weights.shape, np.uint8), np.empty_like(weights)
    groups: list[Scales] = []
    size = grid.setting.group_size
    for begin in range(0, len(weights), size):
        group = slice(begin, begin + size)
        targets = weights[group] - factor[:begin, group].T @ errors[:begin]
        scales = grid.fit(targets, factor.diagonal()[group] ** -2)
        for j in range(begin, begin + size):
            target = targets[j - begin] - factor[begin:j, j] @ errors[begin:j]
            codes[j] = grid.nearest(target, scales)
            errors[j] = (target - grid.values(codes[j], scales)) / factor[j, j]
        groups.append(scales)
    return Rounded(codes, Scales.join(groups))


def inverse_factor(moments: np.ndarray) -> np.ndarray:
    """The upper triangular U, float32, for which UᵀU is the inverse of moments [C, C] with a raised diagonal; it is
    raised further until there is an inverse. Where H = VVᵀ with V upper triangular, U is the inverse of V."""
    damping = DAMPING * (float(moments.diagonal().mean(dtype=np.float64)) or 1.0)
    while True:
        turned = moments[::-1, ::-1].astype(np.float64)
        np.fill_diagonal(turned, turned.diagonal() + damping)
        try:
            lower = np.linalg.cholesky(
                turned
            )  # of the matrix with both axes turned, so that V is its factor turned back
        except np.linalg.LinAlgError:
            damping *= 4
            continue
        return inverse_triangle(lower[::-1, ::-1]).astype(np.float32)


def inverse_triangle(upper: np.ndarray) -> np.ndarray:
    """The inverse of an upper triangular matrix, half by half."""
    half = len(upper) // 2
    if half < 32:
        return np.linalg.inv(upper)
    inverse = np.zeros_like(upper)
    inverse[:half, :half] = inverse_triangle(upper[:half, :half])
    inverse[half:, half:] = inverse_triangle(upper[half:, half:])
    inverse[:half, half:] = -inverse[:half, :half] @ upper[:half, half:] @ inverse[half:, half:]
    return inverse
