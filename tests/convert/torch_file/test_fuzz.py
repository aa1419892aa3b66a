"""Anything at all reads or is refused, with work and memory that the file's size bounds."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import torch_craft as craft
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import ElmError

SMALL = 2**20  # bytes that a tensor may take, however small its file
FILES = Path(__file__).parent / "fixtures"
SEEDS = [craft.PLAIN, craft.PLAIN_LEGACY, *(path.read_bytes() for path in sorted(FILES.glob("*.bin")))]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file with a few bytes or bits changed, cut or made longer."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at] = draw(st.integers(0, 255) | st.sampled_from([data[at] ^ 1 << bit for bit in range(8)]))
    cut = draw(st.sampled_from([0, 0, 0, 0, 0, 1, 8, 22, 100, draw(st.integers(0, len(data)))]))
    return bytes(data[: len(data) - cut]) + draw(st.sampled_from([b"", b"", b"", b"\0", bytes(8)]))


@st.composite
def spliced(draw: st.DrawFn) -> bytes:
    """The start of one file and the end of another, or of itself: parts missing, repeated or of the other format."""
    first, second = draw(st.sampled_from(SEEDS)), draw(st.sampled_from(SEEDS))
    return first[: draw(st.integers(0, len(first)))] + second[draw(st.integers(0, len(second))) :]


WORDS = [
    *[bytes([opcode]) for opcode in b"(N.)]}te\x85\x86\x87aesuR\x81bQ\x88\x89"],
    *[b"q\0", b"q\1", b"h\0", b"h\1", b"K\0", b"K\2", b"U\1a", craft.integer(-1), craft.integer(2**62)],
    *[craft.TENSOR, craft.STORAGE, craft.ORDERED, craft.name("os", "system"), craft.integers((2, 3))],
    *[craft.dictionary(("a", craft.TENSOR)), craft.text("model"), craft.text("storage"), craft.text("0")],
    *[craft.name("torch", name) for name in ("FloatStorage", "Size", "device", "float32")],
    *[craft.name("torch._utils", f"_rebuild_{name}") for name in ("tensor_v2", "tensor_v3", "parameter")],
]
BODIES = st.lists(st.sampled_from(WORDS), max_size=30).map(b"".join)
PROGRAMS = st.builds(lambda wrap, body: wrap(body), st.sampled_from(list(craft.CONTAINERS.values())), BODIES)
GOOD_LEGACY = (
    craft.dictionary(("a", craft.TENSOR.replace(b"tQ", b"NtQ"))),
    craft.listed("0"),
    craft.counted(),
    craft.INFO,
)
ODD_LEGACY = (BODIES, BODIES, st.builds(craft.counted, st.binary(max_size=30), st.integers(-1, 7)), BODIES)
LEGACY = st.builds(
    craft.legacy_file, *(st.just(good) | st.just(good) | odd for good, odd in zip(GOOD_LEGACY, ODD_LEGACY, strict=True))
)


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Count calls, as a measure of time that no other process disturbs, and the bytes that Python and NumPy take."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    tracemalloc.start()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert calls < 20_000 + 20 * size
    assert peak < 3 * SMALL + 100 * size


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_anything_reads_or_is_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "anything.bin"

    @settings(max_examples=count)
    @given(damaged() | spliced() | PROGRAMS | LEGACY)
    def check(data: bytes) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        with bounded(len(data)), suppress(ElmError):
            for tensor in read_torch_file(path).values():
                assert prod(tensor.shape) * tensor.dtype.size <= max(len(data), SMALL)
                mx.eval(tensor.read())

    check()
