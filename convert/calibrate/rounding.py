"""Rounds one matrix for its inputs, and falls back to plain rounding in each row where that loses less."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np

from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.calibrate.compensate import compensate
from elm_mlx.convert.calibrate.descend import descend
from elm_mlx.convert.calibrate.grid import Grid, grid_of
from elm_mlx.convert.calibrate.moments import Moments
from elm_mlx.store.stored_form import expand, quantize

SWEEPS = 4
BLOCK_ROWS = 4096  # rows do not depend on one another; fewer at once need less memory

Parts = dict[str, mx.array]


def round_matrix(
    name: str, weight: mx.array, moments: Moments, setting: Quantization, dtype: mx.Dtype
) -> tuple[Parts, mx.array]:
    """Rounds a weight [R, C]: (what it is stored as, by tensor name; how it will be read, float32 [R, C])."""
    grid = grid_of(setting, dtype)
    blocks = [
        round_rows(name, rows, moments, grid, dtype)
        for rows in mx.split(weight, range(BLOCK_ROWS, len(weight), BLOCK_ROWS))
    ]
    parts = {part: mx.concatenate([block[0][part] for block in blocks]) for part in blocks[0][0]}
    return parts, mx.concatenate([block[1] for block in blocks])


def round_rows(name: str, rows: mx.array, moments: Moments, grid: Grid, dtype: mx.Dtype) -> tuple[Parts, mx.array]:
    """Rounds some rows [R, C] of a weight; what is returned is that of `round_matrix`."""
    weights = np.ascontiguousarray(np.array(rows).T)
    rounded = descend(weights, moments, compensate(weights, moments, grid), grid, SWEEPS)
    parts, values = grid.parts(name, rounded.codes, rounded.scales), rounded.values(grid)
    plain_parts = quantize(name, rows.astype(dtype), grid.setting)
    plain = np.array(expand(plain_parts, replace(grid.setting, overrides={}), mx.float32)[name]).T
    is_better = moments.lost(weights - values) <= moments.lost(weights - plain)  # [R]
    chosen = mx.array(is_better)[:, None]
    parts = {part: mx.where(chosen, array, plain_parts[part]) for part, array in parts.items()}
    return parts, mx.array(np.where(is_better, values, plain).T)
