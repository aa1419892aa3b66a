"""Improves a rounded matrix: group after group gets its best scales, then column after column its best codes.

A change d of some columns changes the squared error of each row's product by dᵀ H d - 2 dᵀ p: H are the moments among
these columns, and p = H (W - Q) takes in all columns. So with the codes of a group fixed, its best step and start solve
two equations in each row. With the scales fixed, the best code of column j alone is the one that is nearest to
Q[j] + p[j] / H[j, j]. No step makes the error larger. (This is coordinate descent, as in QuantEase, arXiv 2309.01885.)

Matrices are turned here: [C, R] for C columns and R rows, so that a column lies in one piece.
"""

from __future__ import annotations

import numpy as np

from elm_mlx.convert.calibrate.compensate import Rounded
from elm_mlx.convert.calibrate.grid import TINY, AffineGrid, Grid, Scales
from elm_mlx.convert.calibrate.moments import Moments


def descend(weights: np.ndarray, moments: Moments, rounded: Rounded, grid: Grid, sweeps: int) -> Rounded:
    """Goes over all groups `sweeps` times: weights [C, R], rounded already, get other codes and scales that lose no
    more."""
    size = grid.setting.group_size
    codes, groups = rounded.codes.copy(), [rounded.scales.of(i) for i in range(len(weights) // size)]
    misses = weights - rounded.values(grid)
    for _ in range(sweeps):
        for i in range(len(groups)):
            group = slice(i * size, (i + 1) * size)
            own, pull = moments.cost[group, group], moments.cost[group] @ misses
            before = grid.values(codes[group], groups[i])
            groups[i] = refit(codes[group], groups[i], own, pull, grid)
            pull -= own @ (grid.values(codes[group], groups[i]) - before)
            recode(codes[group], groups[i], own, pull, grid)
            misses[group] -= grid.values(codes[group], groups[i]) - before
    return Rounded(codes, Scales.join(groups))


def refit(codes: np.ndarray, scales: Scales, own: np.ndarray, pull: np.ndarray, grid: Grid) -> Scales:
    """The best scales for codes [C, R] of a group, or those it has where they lose no more once they are stored. `own`
    are the moments among its columns, `pull` [C, R] those with the errors of all columns."""
    if not isinstance(grid, AffineGrid):
        return scales  # the steps there have no values between
    c = codes.astype(np.float32)
    before = grid.values(codes, scales)
    goal, products, sums = own @ before + pull, own @ c, own.sum(0)
    cc, c1, one = (c * products).sum(0), sums @ c, sums.sum()
    determinant = cc * one - c1 * c1
    with np.errstate(all="ignore"):  # codes that are all one number have no best step; it is refused below
        step = (one * (c * goal).sum(0) - c1 * goal.sum(0)) / determinant
        start = (goal.sum(0) - c1 * step) / one
        found = Scales(grid.stored(step), grid.stored(start))
        change = grid.values(codes, found) - before
        gained = (change * (2 * pull - own @ change)).sum(0)
        return scales.choose(found, (gained > 0) & (abs(found.step) >= TINY) & np.isfinite(gained))


def recode(codes: np.ndarray, scales: Scales, own: np.ndarray, pull: np.ndarray, grid: Grid) -> None:
    """Gives each column of codes [C, R] in turn the best ones, in place."""
    changes = np.zeros_like(pull)
    for j in range(len(codes)):
        before = grid.values(codes[j], scales)
        codes[j] = grid.nearest(before + (pull[j] - own[:j, j] @ changes[:j]) / own[j, j], scales)
        changes[j] = grid.values(codes[j], scales) - before
