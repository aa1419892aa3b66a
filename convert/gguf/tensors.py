"""Tensors of a GGUF file as plain values, read by rows, and as the packed words of MLX's affine quantization.

A block's codes are MLX's, in another order of bits; scales and offsets become MLX's scales and biases, and all is exact
as long as these are float32. Q6_K alone has groups of 16, which MLX lacks: its values are rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.gguf.header import StoredTensor
from elm_mlx.convert.gguf.kinds import Parts
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.store.weights import row_blocks

GROUP = 32  # columns that share a scale in MLX
MEASURED = 2**18  # elements that are measured at a time: few enough to stay in a processor's cache
ROUNDED_BITS = 8  # of what has groups that MLX lacks
FLOATS = {"<f4": mx.float32, "<f2": mx.float16, "<u2": mx.bfloat16}


@dataclass(frozen=True)
class Rows:
    """Reads a tensor, or some rows of it, as plain values. `heads` is how many heads have their rows in Meta's order
    (pairs are neighbours): they come in Hugging Face's, a head's even rows before its odd ones."""

    stored: StoredTensor
    heads: int = 0

    def __call__(self) -> mx.array:
        """Reads all rows."""
        if self.stored.kind.floats or len(self.stored.shape) == 1:
            return self.rows(slice(None))
        return mx.concatenate([self.rows(rows) for rows in row_blocks(self.stored.shape)])

    def rows(self, rows: slice) -> mx.array:
        """Reads these rows alone."""
        kind, shape = self.stored.kind, self.stored.shape
        if kind.floats:
            there = np.ndarray(shape, kind.floats, self.stored.data)
            array = mx.array(np.require(self.pick(there, rows), requirements=["ALIGNED"]))
            return array.view(mx.bfloat16) if FLOATS[kind.floats] == mx.bfloat16 else array
        if len(shape) == 1:  # a vector, of which no row can be read alone
            return Rows(replace(self.stored, shape=(1, *shape))).rows(slice(None))[0][rows]
        codes, scales, offsets = self.parts(rows)
        values = codes.astype(np.float32)
        with np.errstate(all="ignore"):  # NaN and infinity are found where weights are written
            values *= scales[..., None]
            values += offsets[..., None]
        return mx.array(values.reshape(-1, *shape[1:]))

    def parts(self, rows: slice) -> Parts:
        """The parts of all blocks of these rows, a row's after another's."""
        kind, shape = self.stored.kind, self.stored.shape
        assert kind.parts
        there = np.ndarray((shape[0], len(self.stored.data) // shape[0]), np.uint8, self.stored.data)
        with np.errstate(all="ignore"):
            return kind.parts(np.ascontiguousarray(self.pick(there, rows)).reshape(-1, kind.nbytes))

    def pick(self, there: np.ndarray, rows: slice) -> np.ndarray:
        """These rows of all that are there, in the order in which they are wanted."""
        if not self.heads:
            return there[rows]
        wanted = np.arange(*rows.indices(len(there)))
        size = len(there) // self.heads
        head, row = np.divmod(wanted, size)
        half, pair = np.divmod(row, size // 2)
        picked: np.ndarray = there[head * size + 2 * pair + half]
        return picked


@dataclass(frozen=True)
class Joined:
    """Reads several matrices of one width as one of type `dtype`: the rows of the first, then those of the next."""

    parts: Sequence[LazyTensor]
    dtype: mx.Dtype

    def __call__(self) -> mx.array:
        """Reads all rows."""
        return mx.concatenate([part.read().astype(self.dtype) for part in self.parts])

    def rows(self, rows: slice) -> mx.array:
        """Reads these rows alone."""
        begin, end, _ = rows.indices(sum(part.shape[0] for part in self.parts))
        read, before = [], 0
        for part in self.parts:
            here = slice(max(begin - before, 0), min(end - before, part.shape[0]))
            if here.start < here.stop:
                assert isinstance(part.read, Rows)
                read.append(part.read.rows(here).astype(self.dtype))
            before += part.shape[0]
        return mx.concatenate(read)


def plain(stored: StoredTensor, heads: int = 0) -> LazyTensor:
    """A tensor as plain values: floats of its own type, or float32; `heads` as for Rows."""
    return LazyTensor(stored.shape, FLOATS.get(stored.kind.floats, mx.float32), Rows(stored, heads))


def join(parts: Sequence[LazyTensor]) -> LazyTensor:
    """Matrices of one width as one. Those of several types become float32, which holds every value of each."""
    dtypes = {part.dtype for part in parts}
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    dtype = dtypes.pop() if len(dtypes) == 1 else mx.float32
    return LazyTensor(shape, dtype, Joined(parts, dtype))


def bits_kept(stored: StoredTensor) -> int | None:
    """How many bits a matrix keeps in MLX; None for one that MLX cannot keep: floats, and what is no matrix."""
    kind = stored.kind
    if kind.floats or len(stored.shape) != 2 or stored.shape[1] % GROUP:
        return None
    return kind.bits if is_exact(stored) else ROUNDED_BITS


def is_exact(stored: StoredTensor) -> bool:
    """Whether MLX has the bits and the groups of a matrix of few bits, so that it can keep the very numbers."""
    return stored.kind.bits in (4, 5, 8)


def setting_kept(parts: Sequence[StoredTensor]) -> Quantization | None:
    """The setting in which MLX keeps matrices that become one; codes of few bits are codes of more, too. None where it
    cannot keep one of them."""
    bits = [found for part in parts if (found := bits_kept(part))]
    return Quantization(max(bits), GROUP) if len(bits) == len(parts) else None


def read_packed(parts: Sequence[Rows], bits: int) -> dict[str, mx.array]:
    """Reads matrices of few bits as one in MLX's layout: {"weight": uint32 [out, in * bits / 32], "scales": float32
    [out, in / 32], "biases": the same}."""
    blocks = [packed_rows(part, rows, bits) for part in parts for rows in row_blocks(part.stored.shape)]
    columns = zip(("weight", "scales", "biases"), zip(*blocks, strict=True), strict=True)
    return {name: mx.concatenate(list(arrays)) for name, arrays in columns}


def packed_rows(part: Rows, rows: slice, bits: int) -> tuple[mx.array, ...]:
    """Some rows of one matrix in MLX's layout: words, scales, biases."""
    if not is_exact(part.stored):
        rounded = mx.quantize(part.rows(rows), GROUP, bits)
        mx.eval(rounded)
        return tuple(rounded)
    codes, scales, offsets = part.parts(rows)
    height = len(codes) * part.stored.kind.elements // part.stored.shape[1]
    words = pack(codes.reshape(height, -1), bits)
    return mx.array(words), mx.array(scales.reshape(height, -1)), mx.array(offsets.reshape(height, -1))


def measure_cast(parts: Sequence[Rows], dtype: mx.Dtype) -> tuple[float, float]:
    """The sums of the squares of what a cast of scales and offsets to `dtype` changes in some matrices, and of their
    numbers: by the sums of each group's codes and of their squares, since all is linear in the codes."""
    wrong = whole = 0.0
    for part in parts:
        step = max(1, MEASURED // part.stored.shape[1])
        for begin in range(0, part.stored.shape[0], step):
            rows = slice(begin, begin + step)
            codes, *lines = part.parts(rows)
            floats = codes.reshape(-1, GROUP).astype(np.float32)
            # einsum and not BLAS, whose threads wait for one another on a busy machine
            sums = np.einsum("ij->i", floats), np.einsum("ij,ij->i", floats, floats)
            there = [line.reshape(-1).astype(np.float64) for line in lines]
            cast = (mx.array(line.reshape(-1)).astype(dtype).astype(mx.float32) for line in lines)
            gap = [np.array(here).astype(np.float64) - line for here, line in zip(cast, there, strict=True)]
            wrong += squares(gap[0], gap[1], *sums)
            whole += squares(there[0], there[1], *sums)
    return wrong, whole


def squares(scales: np.ndarray, offsets: np.ndarray, sums: np.ndarray, square_sums: np.ndarray) -> float:
    """The sum of the squares of scale * code + offset over groups of GROUP codes, by the sums of the codes of each
    group and of their squares."""
    with np.errstate(all="ignore"):  # NaN and infinity are judged by the sum
        return float((scales**2 * square_sums + 2 * scales * offsets * sums + GROUP * offsets**2).sum())


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint8 codes [rows, columns] of 4, 5 or 8 bits as a stream of bits, the lowest first: uint32 [rows, columns * bits
    / 32]."""
    if bits == 8:
        return np.ascontiguousarray(codes).view("<u4")
    if bits == 4:
        return np.ascontiguousarray(codes[:, ::2] | codes[:, 1::2] << np.uint8(4)).view("<u4")
    eight = np.ascontiguousarray(codes).view("<u8")  # eight codes, a byte each, become five bytes
    joined = eight & 31
    for place in range(1, 8):
        joined |= eight >> np.uint64(3 * place) & np.uint64(31 << 5 * place)
    five = joined.reshape(-1).view(np.uint8).reshape(-1, 8)[:, :5]
    return np.ascontiguousarray(five).reshape(len(codes), -1).view("<u4")
