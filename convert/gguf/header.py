"""The header of a GGUF file: its metadata and its table of tensors, each of which is known to lie in the file.

Format: ggml-org/ggml docs/gguf.md. After the magic word come a version, two counts, the metadata (key and value), the
table (name, shape with the fastest axis first, type, place), and from the next multiple of the alignment on the data.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from elm_mlx.convert.gguf.kinds import KINDS, NAMES, Kind
from elm_mlx.convert.gguf.stream import MAX_NAME, Stream
from elm_mlx.errors import BadCheckpoint, NotFound, Unsupported, unsupported
from elm_mlx.files import LFS_POINTER, reading

MAGIC, VERSIONS = b"GGUF", (2, 3)  # version 1 was written for some weeks of 2023, with counts of another width
MAX_KEYS, MAX_TENSORS = 65_536, 65_536  # a model has some dozens, and some thousands
MAX_DIMENSIONS, MAX_LENGTH = 4, 2**31 - 1  # the format's own, and MLX's
ALIGNMENT, MAX_ALIGNMENT = 32, 2**16
SMALLEST_PAIR, SMALLEST_TENSOR = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8  # bytes


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: shape (out, in), the kind of its elements, and their bytes, which are not read yet."""

    shape: tuple[int, ...]
    kind: Kind
    data: memoryview


@dataclass(frozen=True)
class Header:
    """What a file holds: metadata by key, tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_header(path: Path) -> Header:
    """Reads the header of a file, whose memory map lives as long as a tensor of it does; meanwhile the file may be
    unlinked, not truncated.

    Raises NotFound where there is no file, BadCheckpoint for one that is damaged, and Unsupported, with the name, for a
    version or a type of elements that elm-mlx does not read.
    """
    with reading(path):
        if not path.is_file():
            raise NotFound(f"There is no file {path}. Fetch it, or name the one that is there.")
        with path.open("rb") as file:
            empty = path.stat().st_size == 0
            data = memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return parse_header(data, path)


def parse_header(data: memoryview, where: object) -> Header:
    """Reads the header of a file of these bytes. Raises as `read_header`."""
    if bytes(data[: len(LFS_POINTER)]) == LFS_POINTER:
        raise BadCheckpoint(f"{where} is a Git LFS pointer, not the file itself: run `git lfs pull` where it was "
                            "cloned.")  # fmt: skip
    stream = Stream(data, where)
    check_version(stream)
    tensors, pairs = stream.length(), stream.length()
    for count, most, smallest, what in (
        (tensors, MAX_TENSORS, SMALLEST_TENSOR, "tensors"),
        (pairs, MAX_KEYS, SMALLEST_PAIR, "metadata keys"),
    ):
        if count > min(most, (len(data) - stream.position) // smallest):
            raise stream.wrong(f"its header counts {count:,} {what}, more than fit")
    metadata = read_metadata(stream, pairs)
    table = [read_entry(stream) for _ in range(tensors)]
    start = aligned(stream.position, alignment(stream, metadata))
    return Header(metadata, place_tensors(stream, table, data[start:], alignment(stream, metadata)))


def check_version(stream: Stream) -> None:
    """Reads the magic word and the version. Raises BadCheckpoint, Unsupported."""
    if bytes(stream.take(len(MAGIC))) != MAGIC:
        raise stream.wrong("it does not begin with GGUF")
    version = stream.number("<u4")
    if version in VERSIONS:
        return
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise Unsupported(f"{stream.where} is a big-endian GGUF file, which elm-mlx does not read. Take the "
                          "little-endian one.")  # fmt: skip
    raise unsupported(f"{stream.where}: GGUF version", version, VERSIONS, "Make the file anew with llama.cpp.")


def read_metadata(stream: Stream, count: int) -> dict[str, Any]:
    """Reads so many keys and their values. Raises BadCheckpoint, also for a key that comes twice."""
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = stream.text(MAX_NAME)
        if key in metadata:
            raise stream.wrong(f"its metadata has the key {key!r:.80} twice")
        metadata[key] = stream.value()
    return metadata


def read_entry(stream: Stream) -> tuple[str, tuple[int, ...], int, int]:
    """Reads one line of the table: (name, shape with the slowest axis first, number of the type, place)."""
    name, dimensions = stream.text(MAX_NAME), stream.number("<u4")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise stream.wrong(f"the tensor {name!r:.80} has {dimensions} dimensions")
    shape = tuple(stream.length() for _ in range(dimensions))
    if not all(1 <= length <= MAX_LENGTH for length in shape):
        raise stream.wrong(f"the tensor {name!r:.80} has the shape {shape}")
    return name, shape[::-1], stream.number("<u4"), stream.length()


def alignment(stream: Stream, metadata: dict[str, Any]) -> int:
    """The multiple at which data lies, a power of two. Raises BadCheckpoint for another number."""
    found = metadata.get("general.alignment", ALIGNMENT)
    if type(found) is not int or not 1 <= found <= MAX_ALIGNMENT or found & (found - 1):
        raise stream.wrong(f"general.alignment is {found!r:.80}, where a power of two belongs")
    return found


def aligned(position: int, multiple: int) -> int:
    """The first multiple that is not before a position."""
    return -(-position // multiple) * multiple


def place_tensors(
    stream: Stream, table: list[tuple[str, tuple[int, ...], int, int]], data: memoryview, multiple: int
) -> dict[str, StoredTensor]:
    """The tensors of a table by name, over the `data` of the file. Raises BadCheckpoint for one that does not lie in
    it, or comes twice, Unsupported for a type that elm-mlx does not read."""
    placed: dict[str, StoredTensor] = {}
    for name, shape, number, begin in table:
        kind = kind_of(stream, name, number)
        end = begin + prod(shape) // kind.elements * kind.nbytes
        if name in placed:
            raise stream.wrong(f"it has the tensor {name!r:.80} twice")
        if shape[-1] % kind.elements or begin % multiple:
            raise stream.wrong(f"the tensor {name!r:.80} is not made of whole blocks, or does not begin at one")
        if end > len(data):
            raise stream.wrong(f"the tensor {name!r:.80} ends {end - len(data):,} bytes after the file")
        placed[name] = StoredTensor(shape, kind, data[begin:end])
    return placed


def kind_of(stream: Stream, name: str, number: int) -> Kind:
    """The kind of a tensor's elements by its number. Raises Unsupported for one that elm-mlx does not read."""
    if number in KINDS:
        return KINDS[number]
    if number not in NAMES:
        raise stream.wrong(f"the tensor {name!r:.80} has the unknown type {number}")
    remedy = "Take a file of one of these, such as Q4_K_M or Q8_0, or the safetensors that it was made from."
    what = f"{stream.where}: type of the tensor {name!r:.80}:"
    raise unsupported(what, NAMES[number], [kind.name for kind in KINDS.values()], remedy)
