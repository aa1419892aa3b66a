"""The grids of quantization: which numbers a group of weights can hold in few bits.

In every mode a stored weight is `step * level + start`. The step and the start belong to a group of columns in one row;
the levels to the mode: 0, 1, 2, ... in affine mode, small floats in the others, which have no start. MLX describes the
formats at mx.quantize.

Matrices are turned here: [C, R] for C columns and R rows, so that a column lies in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np

from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.calibrate.packing import pack
from elm_mlx.store.stored_form import quantize, stored_parts

SHRUNK = np.linspace(1, 0.6, 9, dtype=np.float32)  # the ranges that are tried, as parts of the whole one
TINY = np.float32(1e-7)  # MLX's own least step
ONE = {"mxfp4": 127, "mxfp8": 127, "nvfp4": 0x38}  # the byte of a scale that is 1: E8M0, in nvfp4 E4M3


@dataclass(frozen=True)
class Scales:
    """Steps and starts as they are after they were stored, in float32: [R] of one group, [G, R] of all G groups."""

    step: np.ndarray
    start: np.ndarray

    @classmethod
    def join(cls, groups: list[Scales]) -> Scales:
        """The scales of groups [R], one after another, as those of a matrix [G, R]."""
        return cls(np.stack([each.step for each in groups]), np.stack([each.start for each in groups]))

    def choose(self, other: Scales, where: np.ndarray) -> Scales:
        """The scales of `other` for the rows `where`, [R], and these for all others."""
        return Scales(np.where(where, other.step, self.step), np.where(where, other.start, self.start))

    def of(self, group: int) -> Scales:
        """The scales [R] of one group."""
        return Scales(self.step[group], self.start[group])

    def spread(self, columns: int) -> Scales:
        """The scales [G, R] for each column of its group: [C, R]."""
        return Scales(self.step.repeat(columns // len(self.step), 0), self.start.repeat(columns // len(self.step), 0))


class Grid(Protocol):
    """The numbers that weights can hold in one `setting`."""

    setting: Quantization

    def fit(self, group: np.ndarray, cost: np.ndarray) -> Scales:
        """Scales [R] for a group of columns [C, R] that lose little when each weight goes to its nearest number and a
        squared error in a column counts `cost` times, [C]."""
        ...

    def nearest(self, weights: np.ndarray, scales: Scales) -> np.ndarray:
        """The codes, uint8, of the numbers nearest to weights [..., R]."""
        ...

    def values(self, codes: np.ndarray, scales: Scales) -> np.ndarray:
        """The numbers that codes [..., R] stand for: float32."""
        ...

    def parts(self, name: str, codes: np.ndarray, scales: Scales) -> dict[str, mx.array]:
        """What a weight `name` with codes [C, R] and scales [G, R] is stored as: arrays by name, as MLX reads them."""
        ...


def grid_of(setting: Quantization, dtype: mx.Dtype) -> Grid:
    """The grid of a setting; affine scales and biases are stored in `dtype`."""
    return AffineGrid(setting, dtype) if setting.mode == "affine" else FloatGrid(setting)


class AffineGrid:
    """Equal steps from a start: the numbers of affine mode."""

    def __init__(self, setting: Quantization, dtype: mx.Dtype) -> None:
        self.setting, self.dtype, self.top = setting, dtype, np.float32(2**setting.bits - 1)

    def fit(self, group: np.ndarray, cost: np.ndarray) -> Scales:
        """The best of ranges from the least to the greatest weight, and narrower ones."""
        low, high = group.min(0), group.max(0)
        best, least = None, np.inf
        for part in SHRUNK:
            scales = self.between(low * part, high * part)
            errors = group - self.values(self.nearest(group, scales), scales)
            lost = cost @ (errors * errors)
            best = best.choose(scales, lost < least) if best else scales
            least = np.minimum(lost, least)
        assert best
        return best

    def nearest(self, weights: np.ndarray, scales: Scales) -> np.ndarray:
        """The codes, uint8, of the numbers nearest to weights [..., R]."""
        return np.clip(np.rint((weights - scales.start) / scales.step), 0, self.top).astype(np.uint8)

    def values(self, codes: np.ndarray, scales: Scales) -> np.ndarray:
        """The numbers that codes [..., R] stand for: float32."""
        return codes * scales.step + scales.start

    def between(self, low: np.ndarray, high: np.ndarray) -> Scales:
        """Scales whose numbers reach from `low` to `high`."""
        return Scales(self.stored(np.maximum((high - low) / self.top, TINY)), self.stored(low))

    def stored(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers as they are after they were stored as scales."""
        return np.array(mx.array(numbers).astype(self.dtype).astype(mx.float32))

    def parts(self, name: str, codes: np.ndarray, scales: Scales) -> dict[str, mx.array]:
        """Packed words, scales and biases by name."""
        columns, rows = codes.shape
        floats = [mx.array(each.T).astype(self.dtype) for each in (scales.step, scales.start)]
        names = stored_parts(name, (rows, columns), self.setting, self.dtype)
        return dict(zip(names, [mx.array(pack(codes, self.setting.bits)), *floats], strict=True))


class FloatGrid:
    """Small floats times a step that one byte stores: the numbers of mxfp4, mxfp8 and nvfp4. MLX chooses the steps."""

    def __init__(self, setting: Quantization) -> None:
        self.setting = setting
        every = np.arange(2**setting.bits).repeat(setting.group_size).reshape(-1, setting.group_size)
        self.levels = self._expand(every, np.full(len(every), ONE[setting.mode]))[:, 0]
        self.steps = self._expand(np.full((256, setting.group_size), self.levels.tolist().index(1)), np.arange(256))[
            :, 0
        ]
        self.ranked = np.argsort(self.levels, kind="stable")[: np.isfinite(self.levels).sum()].astype(np.uint8)
        self.middles = (self.levels[self.ranked][1:] + self.levels[self.ranked][:-1]) / 2

    def fit(self, group: np.ndarray, cost: np.ndarray) -> Scales:
        """The steps that MLX takes."""
        rows = mx.array(np.concatenate([group.T, group.T]))  # twice, as MLX wants a multiple of 32 weights
        _, raw = quantize("weight", rows, self.setting).values()
        step = self.steps[np.array(raw)[: group.shape[1], 0]]
        return Scales(step, np.zeros_like(step))

    def nearest(self, weights: np.ndarray, scales: Scales) -> np.ndarray:
        """The codes, uint8, of the numbers nearest to weights [..., R]."""
        places = np.divide(weights, scales.step, out=np.zeros_like(weights), where=scales.step > 0)
        return self.ranked[np.searchsorted(self.middles, places)]

    def values(self, codes: np.ndarray, scales: Scales) -> np.ndarray:
        """The numbers that codes [..., R] stand for: float32."""
        return self.levels[codes] * scales.step

    def parts(self, name: str, codes: np.ndarray, scales: Scales) -> dict[str, mx.array]:
        """Packed words and scales by name."""
        columns, rows = codes.shape
        order = np.argsort(self.steps)
        raw = order[np.searchsorted(self.steps, scales.step.T, sorter=order)].astype(np.uint8)
        names = stored_parts(name, (rows, columns), self.setting, mx.float32)
        return dict(zip(names, [mx.array(pack(codes, self.setting.bits)), mx.array(raw)], strict=True))

    def _expand(self, codes: np.ndarray, raw: np.ndarray) -> np.ndarray:
        """The numbers of codes [R, C], a group in each row, with the bytes `raw` [R] as their scales."""
        words, scales = mx.array(pack(codes.T, self.setting.bits)), mx.array(raw.astype(np.uint8))[:, None]
        how = self.setting
        return np.array(mx.dequantize(words, scales, None, how.group_size, how.bits, how.mode, dtype=mx.float32))
