"""safetensors files: headers checked before a byte is touched, arrays read lazily, output written as a stream.

Format: 8 bytes of header length, a JSON header, the data (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self, TypeVar

import mlx.core as mx

from elm_mlx.config import HEAD_NAME, Shape
from elm_mlx.config.values import CONFIG
from elm_mlx.errors import BadCheckpoint, NotFound, unsupported
from elm_mlx.files import LFS_POINTER, reading
from elm_mlx.store.bounded_json import parse_bounded
from elm_mlx.store.weight_files import some

T = TypeVar("T")
TIED_KEYS = "tie_word_embeddings (OpenELM: share_input_output_layers)"  # of config.json
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_DIMENSIONS = 64  # PyTorch and NumPy have this limit
BLOCK_ELEMENTS = 2**22  # of a tensor that are in memory at once, where it is read in blocks
DTYPES: dict[str, mx.Dtype] = {
    "F32": mx.float32,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "U8": mx.uint8,
    "U16": mx.uint16,
    "U32": mx.uint32,
    "U64": mx.uint64,
    "I8": mx.int8,
    "I16": mx.int16,
    "I32": mx.int32,
    "I64": mx.int64,
    "BOOL": mx.bool_,
}
FLOAT8 = {"F8_E4M3": mx.uint8, "F8_E8M0": mx.uint8}  # whose bytes only a conversion reads: MLX has no such types
MLX_METADATA = {"format": "mlx"}  # of weights, as mlx-lm writes it
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, without its data: type, shape and size. `float8` is the file's name for its type where the
    bytes of `dtype` stand for floats that MLX does not have."""

    dtype: mx.Dtype
    shape: Shape
    float8: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return prod(self.shape) * self.dtype.size

    @property
    def is_float(self) -> bool:
        """Whether the tensor's type is a floating-point one."""
        return mx.issubdtype(self.dtype, mx.floating)


def read_header(path: Path) -> dict[str, Entry]:
    """Reads which tensors a safetensors file holds, by name. Raises as `read_places`."""
    return {name: entry for name, (_, entry) in read_places(path).items()}


def read_places(path: Path, *, float8: bool = False) -> dict[str, tuple[int, Entry]]:
    """Reads (first byte in the file, tensor) of every tensor, by name; types of FLOAT8 only for a caller with `float8`.

    Raises NotFound where there is no file, BadCheckpoint for one whose header and size do not agree exactly, and
    Unsupported for a type that MLX does not have.
    """
    header, start, size = _read_json(path)
    return _places(path, header, start, size, DTYPES | FLOAT8 if float8 else DTYPES)


def read_metadata(path: Path) -> dict[str, str]:
    """Reads the texts by name that a file has beside its tensors. Raises as `read_places`."""
    header, start, size = _read_json(path)
    metadata = header.get("__metadata__") or {}
    _places(path, header, start, size)  # which judges them
    return dict(metadata)


def _read_json(path: Path) -> tuple[dict[str, Any], int, int]:
    """(the header, not judged yet, the first byte after it, the bytes of the file)."""
    with reading(path):
        if not path.is_file():
            raise NotFound(f"There is no {path.name} in {path.parent}. Fetch it again.")
    with reading(path), path.open("rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise BadCheckpoint(f"{path} is not a safetensors file, or is cut short{_pointer(path)}. Fetch it again.")
        raw = file.read(length)
    header = parse_bounded(raw, path, "its header", object_pairs_hook=_unique, parse_int=_natural)
    return header, 8 + length, size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(keys := dict(pairs)) != len(pairs):
        raise ValueError("a name twice")
    return keys


def _natural(digits: str) -> int:
    if digits.startswith("-"):  # -0 too, as in the safetensors library
        raise ValueError("a number below 0")
    return int(digits)


def _pointer(path: Path) -> str:
    """Says whether a file is a Git LFS pointer, the most common damage: a clone without Git LFS leaves pointers."""
    with path.open("rb") as file:
        is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    return " (it is a Git LFS pointer: run `git lfs pull`)" if is_pointer else ""


def _places(
    path: Path, header: dict[str, Any], start: int, size: int, dtypes: Mapping[str, mx.Dtype] = DTYPES
) -> dict[str, tuple[int, Entry]]:
    """(first byte in the file, tensor) by name. Checks that the tensors fill the data, from `start` to the file's end,
    without a gap or an overlap, as the format demands."""
    if not _is_metadata(header.pop("__metadata__", None)):
        raise BadCheckpoint(f"{path}: the metadata in its header holds more than texts. Fetch it again.")
    spans: list[tuple[int, int, str, Entry]] = []
    for name, value in header.items():
        begin, end, entry = _entry(f"{path}: tensor {name}", value, dtypes)
        spans.append((begin, end, name, entry))
    position = 0
    for begin, end, name, entry in sorted(spans, key=lambda span: span[:2]):
        if begin != position or end - begin != entry.nbytes:
            raise BadCheckpoint(f"{path}: tensor {name} does not lie where its shape says. Fetch it again.")
        position = end
    if position != size - start:
        raise BadCheckpoint(f"{path} holds {size - start} bytes of data where its header promises {position}: "
                            "it is cut short or has been added to. Fetch it again.")  # fmt: skip
    return {name: (start + begin, entry) for begin, _, name, entry in spans}


def _is_metadata(value: object) -> bool:
    """Whether the format allows `value` as `__metadata__`: texts by name, or nothing."""
    return value is None or (isinstance(value, dict) and all(isinstance(text, str) for text in value.values()))


def _entry(where: str, value: Any, dtypes: Mapping[str, mx.Dtype]) -> tuple[int, int, Entry]:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadCheckpoint(f"{where} must have a type, a shape and a place, and nothing else. Fetch the file again.")
    dtype, shape, span = value["dtype"], value["shape"], value["data_offsets"]
    if not _is_shape(shape) or not isinstance(span, list) or [type(n) for n in span] != [int, int]:
        raise BadCheckpoint(f"{where} has an impossible shape or place. Fetch the file again.")
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise unsupported(f"{where}: type", dtype, DTYPES, "Save the model in one of these.")
    return span[0], span[1], Entry(dtypes[dtype], tuple(shape), dtype if dtype in FLOAT8 else "")


def _is_shape(value: object) -> bool:
    """Whether `value` is a list of a few whole numbers whose product, with zeros left out, fits 64 bits."""
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        return False
    return all(type(n) is int for n in value) and prod(n or 1 for n in value) < 2**62


def gather(directory: Path, files: Iterable[str], read: Callable[[Path], Mapping[str, T]]) -> dict[str, T]:
    """Reads all tensors of the files, by name. Refuses a name in two files."""
    found: dict[str, T] = {}
    for file in files:
        tensors = read(directory / file)
        if twice := [name for name in tensors if name in found]:
            raise BadCheckpoint(f"{directory} holds {some(twice)} in two files. Fetch it again, or move away what does "
                                "not belong to the model.")  # fmt: skip
        found |= tensors
    return found


def read_arrays(path: Path) -> dict[str, tuple[Entry, mx.array]]:
    """Checks a file and gives its tensors, by name. The arrays are lazy: their data is read when they are evaluated."""
    header = read_header(path)
    try:
        arrays = mx.load(str(path), format="safetensors")
    except RuntimeError as error:  # a path that is not UTF-8, a file that changed since its header was read
        raise BadCheckpoint(f"MLX cannot read {path}: {error}. Fetch it again, or rename it.") from error
    assert isinstance(arrays, dict)
    return {name: (entry, arrays[name]) for name, entry in header.items()}


def check_entries(
    where: Path, expected: Mapping[str, Entry], found: Mapping[str, Entry], authority: str = CONFIG
) -> None:
    """Checks that every expected tensor is there, with its shape and kind (all floats are one kind), and no other.

    Raises BadCheckpoint with both sides; its message calls the source of what is expected `authority`.
    """
    missing, extra = [n for n in expected if n not in found], [n for n in found if n not in expected]
    if missing or extra:
        sides = [f"missing {some(missing)}"] * bool(missing) + [f"not expected {some(extra)}"] * bool(extra)
        advice = "Take both from the same repository" if extra else "Fetch the weights again, all of their files"
        if not extra and all(name.startswith(HEAD_NAME.removesuffix("weight")) for name in missing):
            advice += f". Or set {TIED_KEYS} to true in config.json, if the model's head is its embedding"
        raise BadCheckpoint(f"{where} does not match its {authority}: {'; '.join(sides)}. {advice}.")
    for name, entry in expected.items():
        if found[name].shape != entry.shape:
            raise BadCheckpoint(f"{where}: {name} has shape {found[name].shape}, {authority} gives "
                                f"{entry.shape}. Take both from the same repository.")  # fmt: skip
        if found[name].dtype != entry.dtype and not (found[name].is_float and entry.is_float):
            raise BadCheckpoint(f"{where}: {name} has type {DTYPE_NAMES[found[name].dtype]}, which no weight of its "
                                f"kind has ({DTYPE_NAMES[entry.dtype]}). Fetch it again.")  # fmt: skip


class Rowed(Protocol):
    """A tensor whose rows are read as slices of it."""

    @property
    def shape(self) -> Shape:
        """Its shape."""
        ...

    def __getitem__(self, rows: slice, /) -> mx.array: ...


def check_copy(where: Path, head: Rowed, embedding: Rowed) -> None:
    """Raises BadCheckpoint for a tied head that does not repeat the embedding, since dropping it would lose it."""
    blocks = row_blocks(head.shape) if head.shape == embedding.shape else []
    if not blocks or not all(mx.array_equal(head[rows], embedding[rows], equal_nan=True).item() for rows in blocks):
        raise BadCheckpoint(f"{where}: lm_head.weight differs from the embedding, though config.json says that they "
                            "are one. Take both from the same repository, or set tie_word_embeddings (for OpenELM "
                            "share_input_output_layers) in config.json to false, which keeps both.")  # fmt: skip


def row_blocks(shape: Shape) -> list[slice]:
    """Slices of a tensor's rows, a few million elements each, so that work on one at a time takes little memory."""
    step = max(1, BLOCK_ELEMENTS // max(1, prod(shape[1:])))
    return [slice(begin, begin + step) for begin in range(0, shape[0], step)]


def file_head(entries: Mapping[str, Entry], metadata: Mapping[str, str] = MLX_METADATA) -> bytes:
    """The bytes that a file of these tensors, in this order, begins with: the header's length and the header."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, entry in entries.items():
        span = [position, position := position + entry.nbytes]
        header[name] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": span}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # data begins on a multiple of 8, as the format recommends
    return len(raw).to_bytes(8, "little") + raw


class Writer:
    """Writes a safetensors file tensor by tensor. The header comes first, so `entries` must name all of them.

    The first `written` tensors are in the file already, from a Writer that was stopped; what follows them is cut off.
    """

    def __init__(
        self, path: Path, entries: Mapping[str, Entry], written: int = 0, metadata: Mapping[str, str] = MLX_METADATA
    ) -> None:
        self._path, self._entries, self._metadata = path, entries, metadata
        self._there, self._pending = list(entries)[:written], list(entries)[written:]

    def __enter__(self) -> Self:
        self._file: BinaryIO = self._path.open("r+b" if self._there else "wb")
        self._file.write(file_head(self._entries, self._metadata))
        self._file.seek(sum(self._entries[name].nbytes for name in self._there), os.SEEK_CUR)
        self._file.truncate()
        return self

    def write(self, name: str, *blocks: mx.array) -> list[memoryview]:
        """Appends the next tensor, whole or in blocks of rows, and returns the bytes that the system now has."""
        due, entry = self._pending.pop(0), self._entries[name]
        fits = all(block.shape[1:] == entry.shape[1:] and block.dtype == entry.dtype for block in blocks)
        if name != due or not fits or sum(block.nbytes for block in blocks) != entry.nbytes:
            given = ", ".join(f"{block.shape} {block.dtype}" for block in blocks[:3])
            raise ValueError(f"{name} {given} is not what the header promises: {due} {entry}")
        data = [_bytes(block) for block in blocks if block.size]
        self._file.writelines(data)
        self._file.flush()
        return data

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if kind is None and self._pending:
            raise ValueError(f"{self._path} was closed before {self._pending[0]} was written")


def _bytes(array: mx.array) -> memoryview:
    """The bytes of an array, row by row."""
    data = memoryview(array)  # type: ignore[arg-type]
    if data.c_contiguous:  # nearly always; mx.contiguous would wait for all else that MLX has to compute
        return data
    return memoryview(mx.contiguous(array))  # type: ignore[arg-type]
