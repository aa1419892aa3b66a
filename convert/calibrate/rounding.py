"""Rounds one matrix for its inputs, and falls back to plain rounding in each row where that loses less."""

from __future__ import annotations

from collections.abc import Iterable
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

Parts = dict[str, mx.array]


def round_matrix(
    name: str, blocks: Iterable[mx.array], moments: Moments, setting: Quantization, dtype: mx.Dtype
) -> Parts:
    """Rounds a weight: what it is stored as, by tensor name. It comes in blocks of its rows, [R, C] each: rows do not
    depend on one another, and few at once need less memory."""
    grid = grid_of(setting, dtype)
    rounded = [round_rows(name, rows, moments, grid, dtype) for rows in blocks]
    return {part: mx.concatenate([block[part] for block in rounded]) for part in rounded[0]}


def round_rows(name: str, rows: mx.array, moments: Moments, grid: Grid, dtype: mx.Dtype) -> Parts:
    """Rounds some rows [R, C] of a weight: what they are stored as."""
    weights = np.ascontiguousarray(np.array(rows.astype(mx.float32)).T)  # [C, R]
    plain = quantize(name, rows.astype(dtype), grid.setting)
    with np.errstate(over="ignore", invalid="ignore"):  # in rows whose squares float32 cannot hold
        rounded = descend(weights, moments, compensate(weights, moments, grid), grid, SWEEPS)
        lost = moments.lost(weights - rounded.values(grid))  # [R]
        lost_plain = moments.lost(weights - np.array(read_back(name, plain, grid.setting)).T)
    is_better = mx.array(np.isfinite(lost) & (lost <= lost_plain))[:, None]
    parts = {
        part: mx.where(is_better, array, plain[part])
        for part, array in grid.parts(name, rounded.codes, rounded.scales).items()
    }
    mx.eval(parts)
    return parts


def read_back(name: str, parts: Parts, setting: Quantization) -> mx.array:
    """Rows [R, C] of a rounded weight as they will be read, in float32."""
    return expand(parts, replace(setting, overrides={}), mx.float32)[name]
