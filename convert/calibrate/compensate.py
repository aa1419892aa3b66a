"""Rounds a matrix column by column, and moves each column's error into later columns.

The method is GPTQ (Frantar and others 2022, arXiv 2210.17323). Column after column goes to its nearest numbers; what
the product loses by that is made up for, as well as can be, by the columns that are still free. With H the moments of
the inputs and H⁻¹ = UᵀU, U upper triangular, the best target for column j is W[:, j] less the sum over i < j of
e_i U[i, j], where e_i is what column i missed its target by, divided by U[i, i].

Matrices are turned here: [C, R] for C columns and R rows, so that a column lies in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from elm_mlx.convert.calibrate.grid import Grid, Scales
from elm_mlx.convert.calibrate.moments import Moments


@dataclass(frozen=True)
class Rounded:
    """A matrix on a grid: codes [C, R] and scales [G, R]."""

    codes: np.ndarray
    scales: Scales

    def values(self, grid: Grid) -> np.ndarray:
        """The matrix as it will be read, [C, R]."""
        return grid.values(self.codes, self.scales.spread(len(self.codes)))


def compensate(weights: np.ndarray, moments: Moments, grid: Grid) -> Rounded:
    """Rounds weights [C, R]. The scales of a group are chosen when its first column's turn comes."""
    U, size = moments.factor, grid.setting.group_size
    codes, errors = np.empty(weights.shape, np.uint8), np.empty_like(weights)
    groups: list[Scales] = []
    for begin in range(0, len(weights), size):
        group = slice(begin, begin + size)
        targets = weights[group] - U[:begin, group].T @ errors[:begin]
        scales = grid.fit(targets, U.diagonal()[group] ** -2)
        for j in range(begin, begin + size):
            target = targets[j - begin] - U[begin:j, j] @ errors[begin:j]
            codes[j] = grid.nearest(target, scales)
            errors[j] = (target - grid.values(codes[j], scales)) / U[j, j]
        groups.append(scales)
    return Rounded(codes, Scales.join(groups))
