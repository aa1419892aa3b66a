"""Values that MLX has no form for, quantized anew to 8 bits, and checks of the floats that a kept matrix has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import mlx.core as mx
import numpy as np

from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.packed import Packed
from elm_mlx.errors import BadCheckpoint, NotFinite
from elm_mlx.store.weights import row_blocks

BITS, MOST = 8, 255
GROUP_SIZES = (64, 32)  # the first that divides the rows
Read = Callable[[slice], mx.array]


def requantized(name: str, shape: tuple[int, int], read: Read, dtype: mx.Dtype) -> Packed | None:
    """The matrix `name` [out, in], whose rows `read` gives in float32, in affine 8 bits with scales and biases in
    `dtype`; None where no group size divides its rows."""
    size = next((size for size in GROUP_SIZES if shape[1] % size == 0), None)
    if size is None:
        return None
    setting = Quantization(BITS, size)
    return Packed(setting, partial(read_requantized, name, shape, read, dtype, setting), anew=True)


def read_requantized(
    name: str, shape: tuple[int, int], read: Read, dtype: mx.Dtype, setting: Quantization
) -> dict[str, mx.array]:
    """Reads a matrix block by block, and quantizes each."""
    blocks = [quantize_rows(name, read(rows), dtype, setting) for rows in row_blocks(shape)]
    return {part: mx.concatenate([block[part] for block in blocks]) for part in blocks[0]}


def quantize_rows(name: str, rows: mx.array, dtype: mx.Dtype, setting: Quantization) -> dict[str, mx.array]:
    """Rows float32 [n, in] in 8 bits. The numbers are chosen for the scales as `dtype` rounds them, which MLX's own
    rounding, before that, does not know."""
    _, scales, biases = mx.quantize(rows, setting.group_size, setting.bits)
    check_floats(name, dtype, scales, biases)
    scales, biases = (each.astype(dtype).astype(mx.float32) for each in (scales, biases))
    grouped = rows.reshape(len(rows), -1, setting.group_size)
    steps = (grouped - biases[..., None]) / mx.where(scales == 0, 1, scales)[..., None]
    codes = mx.clip(mx.round(steps), 0, MOST).astype(mx.uint8)
    parts = {"weight": codes.reshape(rows.shape).view(mx.uint32), "scales": scales, "biases": biases}
    mx.eval(*parts.values())
    return parts


def check_floats(name: str, dtype: mx.Dtype, *groups: mx.array) -> None:
    """Checks the scales and biases of a matrix that is kept in few bits. Raises BadCheckpoint for numbers that `dtype`
    cannot hold; NaN and infinity of the source are found where its numbers are measured."""
    for floats in groups:
        cast = np.array(floats.astype(dtype).astype(mx.float32))
        if (np.isfinite(np.array(floats)) & ~np.isfinite(cast)).any():
            kind = str(dtype).removeprefix("mlx.core.")
            raise BadCheckpoint(f"{name} has scales that {kind} cannot hold.", "Give {dtype=float32}.")


def not_finite(name: str) -> NotFinite:
    """The error for a matrix of the source that cannot be kept in few bits, as numbers or scales of it are none."""
    return NotFinite(f"{name} of the source holds NaN or infinity: its file is damaged, or it was saved so. Fetch it "
                     "again;", "`elm-mlx convert` takes it all the same with {dtype=bfloat16} and "
                     "{allow_nonfinite=True}.")  # fmt: skip
