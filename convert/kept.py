"""Packed matrices that stay as their source has them: the settings that say so, and what is lost by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import isfinite, sqrt
from typing import Any

import mlx.core as mx
import numpy as np

from elm_mlx.config.quantization import ROW_SCALES, Quantization
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint, NotFinite
from elm_mlx.store.stored_form import expand, stored_parts
from elm_mlx.store.weights import row_blocks


def kept_quantization(tensors: Mapping[str, LazyTensor]) -> Quantization | None:
    """The quantization that keeps every packed matrix among `tensors` as it is, and all other weights plain: the
    setting that most of them have, and the others' as overrides. None where nothing is packed."""
    packed = {name: tensor.packed.setting for name, tensor in tensors.items() if tensor.packed}
    if not packed:
        return None
    kinds = Counter((one.bits, one.group_size, one.mode, one.rows) for one in packed.values())
    bits, size, mode, rows = kinds.most_common(1)[0][0]
    usual = Quantization(bits, size, mode, rows=rows)
    other = {
        name.removesuffix(".weight"): packed.get(name)
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and packed.get(name) != usual
    }
    return replace(usual, overrides=other)


class Kept:
    """Reads packed matrices as they will be stored, and measures how far each is from the source's own numbers: the
    root of the mean square of the difference, over that of the numbers. NaN and infinity are refused unless they are
    allowed."""

    def __init__(self, tensors: Mapping[str, LazyTensor], dtype: mx.Dtype, allow_nonfinite: bool = False) -> None:
        self.tensors, self.dtype = {name: tensor for name, tensor in tensors.items() if tensor.packed}, dtype
        self.allow_nonfinite = allow_nonfinite
        self.errors: dict[str, float] = {}

    def readers(self) -> dict[str, Callable[[], dict[str, mx.array]]]:
        """A function for each matrix that reads what it is stored as, by tensor."""
        return {name: lambda name=name: self.read(name) for name in self.tensors}  # type: ignore[misc]

    def read(self, name: str) -> dict[str, mx.array]:
        """Reads one matrix, as it will be stored."""
        tensor = self.tensors[name]
        assert tensor.packed
        parts = tensor.packed.parts(name, self.dtype)
        expected = stored_parts(name, tensor.shape, tensor.packed.setting, self.dtype)
        assert {part: (array.shape, array.dtype) for part, array in parts.items()} == {
            part: (entry.shape, entry.dtype) for part, entry in expected.items()
        }, f"{name} is packed in another form than its setting says"
        if tensor.packed.measure:
            wrong, whole = tensor.packed.measure(self.dtype)
        else:
            stored = (self.expanded(name, parts, rows) for rows in row_blocks(tensor.shape))
            wrong, whole = gap_and_size(stored, tensor.blocks())
        if isfinite(whole) or not self.allow_nonfinite:
            refuse_infinite(name, wrong, whole, self.dtype)
        self.errors[name] = sqrt(wrong / whole) if whole else sqrt(wrong)
        return parts

    def expanded(self, name: str, parts: Mapping[str, mx.array], rows: slice) -> mx.array:
        """Some rows of a matrix that is stored as `parts`, expanded to float32; MLX has only begun with them."""
        kept = self.tensors[name].packed
        assert kept
        array = expand({part: array[rows] for part, array in parts.items()}, kept.setting, mx.float32)[name]
        mx.async_eval(array)
        return array

    def record(self) -> dict[str, Any]:
        """What conversion.json says of the matrices: how many, which one lost most, how many are quantized anew, and
        how many have a float for each row. Those that a killed run wrote are measured now. Where NaN or infinity was
        let through nothing is measured."""
        for name in self.tensors:
            if name not in self.errors:
                self.read(name)
        measured = {name: error for name, error in self.errors.items() if isfinite(error)}
        worst = max(measured, key=lambda name: measured[name], default=None)
        anew = sum(bool(tensor.packed and tensor.packed.anew) for tensor in self.tensors.values())
        found = {"matrices": len(self.errors), "largest_error": measured[worst] if worst else None, "of": worst}
        scaled = sum(bool(tensor.packed and tensor.packed.setting.rows) for tensor in self.tensors.values())
        return found | ({"anew": anew} if anew else {}) | ({ROW_SCALES: scaled} if scaled else {})


def gap_and_size(stored: Iterable[mx.array], source: Iterable[mx.array]) -> tuple[float, float]:
    """Compares two matrices [out, in], whose rows come in equal blocks: the sums of the squares of the differences, and
    of the second one's numbers. While MLX expands a block of the first, one of the second is read; NumPy adds the
    squares up, several times as fast as MLX on a CPU, and more exactly."""
    wrong = whole = 0.0
    gap = np.empty((0, 0), np.float32)
    for kept, rows in zip(stored, source, strict=True):
        here, there = (np.array(block.astype(mx.float32), copy=False) for block in (kept, rows))
        if len(gap) < len(here):
            gap = np.empty(here.shape, np.float32)  # one for all blocks: the system clears every new one
        with np.errstate(all="ignore"):  # NaN and infinity are judged by the sums
            difference = np.subtract(here, there, out=gap[: len(here)])
        wrong, whole = wrong + square_sum(difference), whole + square_sum(there)
    return wrong, whole


def square_sum(matrix: np.ndarray) -> float:
    """The sum of a matrix's squares, row by row. Not by BLAS, whose threads wait for one another on a busy machine."""
    return float(np.einsum("ij,ij->i", matrix, matrix).sum(dtype=np.float64))


def refuse_infinite(name: str, wrong: float, whole: float, dtype: mx.Dtype) -> None:
    """Judges a matrix by the sums of the squares of its errors and of its numbers. Raises NotFinite, BadCheckpoint."""
    if not isfinite(whole):
        raise NotFinite(f"{name} of the source holds NaN or infinity, or numbers as large: its file is damaged, or it "
                        "was saved so. Fetch it again;", "`elm-mlx convert` takes it all the same with "
                        "{allow_nonfinite=True}.")  # fmt: skip
    if not isfinite(wrong):
        raise BadCheckpoint(f"{name} has scales above {mx.finfo(dtype).max:g}, which the type that they would get "
                            "cannot hold.", "Use {dtype=float32}.")  # fmt: skip
