"""The needle: attention finds exactly the position that is asked for, as far into a context as models go, without any
weights.

All keys of a cache have the same content and differ in nothing but their position. A query asks for one position: its
content is that of the keys, turned back by the distance as the formula of RoPE says, in float64. It meets the key at
that position best, and the keys beside it measurably worse. Each value spells its own position in bits, so what
attention returns is the position that it found; one position off, in a key, a query or a chunk, is another number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.config import RopeConfig
from elm_mlx.engine.cache.kv import KVCache
from elm_mlx.engine.cache.slots import Slots
from elm_mlx.models.rope import Rotation

D, BITS = 64, 18
STRENGTH = 20.0  # length of each pair of a key: a neighbour then gets less than a millionth of the weight
ROPES = {
    "openelm": RopeConfig(10_000.0),
    "llama-3": RopeConfig(500_000.0),
    "llama-3.1": RopeConfig(500_000.0, "llama3", 8.0, 1.0, 4.0, 8192),
    "llama-3.2": RopeConfig(500_000.0, "llama3", 32.0, 1.0, 4.0, 8192),
    "262k": RopeConfig(283_461_213.0),
}
each_rope = pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)


def frequencies(rope: RopeConfig, head_dim: int = D) -> np.ndarray:
    """The angle of each pair at position 1 [D/2], float64. Source: the formula of the llama3 rule by wavelengths, as
    model cards explain it; models/rope.py has it by turns."""
    plain = rope.theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if rope.kind == "default":
        return plain
    if rope.kind == "linear":
        return plain / rope.factor
    waves = 2 * math.pi / plain
    smooth = (rope.original_context / waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    mixed = (1 - smooth) * plain / rope.factor + smooth * plain
    kept = np.where(waves < rope.original_context / rope.high_freq_factor, plain, mixed)
    return np.where(waves > rope.original_context / rope.low_freq_factor, plain / rope.factor, kept)


def turned(x: np.ndarray, rope: RopeConfig, by: float) -> np.ndarray:
    """Content x [..., D], every pair turned by so many positions, in float64."""
    half = x.shape[-1] // 2
    angles, left, right = by * frequencies(rope, x.shape[-1]), x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([left * cos - right * sin, left * sin + right * cos], -1)


def content(rope: RopeConfig) -> np.ndarray:
    """What all keys hold [D]: pairs of equal length in random directions. Under linear scaling neighbours differ by a
    smaller angle, so that longer pairs are needed to tell them apart."""
    angles = np.random.RandomState(3).uniform(0, 2 * math.pi, D // 2)
    longer = rope.factor if rope.kind == "linear" else 1.0
    return STRENGTH * longer * np.concatenate([np.cos(angles), np.sin(angles)])


def spelled(start: int, count: int) -> np.ndarray:
    """The values of `count` positions from `start` on [count, D]: BITS of each position as 1 and -1."""
    bits = (np.arange(start, start + count)[:, None] >> np.arange(BITS)) & 1
    return np.pad(2.0 * bits - 1, ((0, 0), (0, D - BITS)))


def read(found: mx.array) -> np.ndarray:
    """The positions that results of attention [..., D] spell. Asserts that each is one position, and no mixture."""
    bits = np.array(found.astype(mx.float32))[..., :BITS]
    assert np.abs(bits).min() > 0.9
    return ((bits > 0) << np.arange(BITS)).sum(-1)


class Haystack(NamedTuple):
    """One layer's cache, whose keys all hold the same."""

    rope: RopeConfig
    dtype: mx.Dtype
    layer: KVCache

    def kv(self, count: int, offset: int | mx.array, start: int) -> tuple[mx.array, mx.array]:
        """Keys and values of `count` positions from `start` on, [1, 1, count, D] each, rotated as a model does."""
        keys = mx.broadcast_to(mx.array(content(self.rope)).astype(self.dtype), (1, 1, count, D))
        values = mx.array(spelled(start, count)).astype(self.dtype)[None, None]
        return Rotation(self.rope, D)(keys, offset), values

    def queries(self, needles: Sequence[Sequence[int]], offset: int | mx.array, start: int) -> mx.array:
        """Queries of H heads and L positions from `start` on, [1, H, L, D], each of which asks for its needle."""
        held = content(self.rope)
        asks = [[turned(held, self.rope, needle - start - i) for i, needle in enumerate(head)] for head in needles]
        return Rotation(self.rope, D)(mx.array(np.array(asks)).astype(self.dtype)[None], offset)

    def grow(self, positions: int, chunk: int) -> None:
        """Appends positions in chunks; after each, some are forgotten and written anew, as a rejected guess is."""
        while (start := self.layer.offset) < positions:
            count = min(chunk, positions - start)
            self.layer.append(*self.kv(count, start, start))
            mx.eval(self.layer.arrays())
            if start + count < positions:
                self.layer.trim(min(37, count - 1))

    def ask(self, needles: Sequence[Sequence[int]]) -> list[list[int]]:
        """The positions that queries of the next positions find; these are forgotten afterwards."""
        start, L = self.layer.offset, len(needles[0])
        found = self.layer.attend(self.queries(needles, start, start), *self.kv(L, start, start))
        self.layer.trim(L)
        answer: list[list[int]] = read(found[0]).tolist()
        return answer


def haystack(rope: RopeConfig, dtype: mx.Dtype, positions: int, chunk: int = 8192) -> Haystack:
    made = Haystack(rope, dtype, KVCache(positions + 64, positions + 64))
    made.grow(positions, chunk)
    return made


def some_needles(positions: int) -> list[int]:
    """Positions at both ends, around powers of two, and between."""
    powers = [2**n + d for n in range(8, 18) for d in (-1, 0, 1)]
    spread = np.random.RandomState(positions).randint(0, positions, 10).tolist()
    return [n for n in (0, 1, positions - 1, *powers, *spread) if n < positions]


def check(hay: Haystack) -> None:
    """Asserts that a single query finds every needle, and that queries of one pass of several positions do."""
    needles = some_needles(hay.layer.offset)
    for one, other in zip(needles[::2], needles[1::2], strict=False):
        assert hay.ask([[one], [other]]) == [[one], [other]]
    several = [needles[:24], needles[-24:]]
    assert hay.ask(several) == several


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@each_rope
def test_every_position_is_found_exactly(rope: RopeConfig, dtype: mx.Dtype) -> None:
    check(haystack(rope, dtype, 8192))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama-3.1", mx.float32),
        ("262k", mx.bfloat16),
        pytest.param("llama-3.1", mx.bfloat16, marks=pytest.mark.slow),
        pytest.param("262k", mx.float32, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_position_at_32k_is_found_exactly(name: str, dtype: mx.Dtype) -> None:
    check(haystack(ROPES[name], dtype, 32_768))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "positions"), [("llama-3.1", 131_072), ("llama-3.2", 131_072), ("262k", 262_000)])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_every_position_of_the_longest_contexts_is_found_exactly(name: str, positions: int, dtype: mx.Dtype) -> None:
    check(haystack(ROPES[name], dtype, positions, chunk=16_384))


def test_linear_scaling_finds_positions_too() -> None:
    check(haystack(RopeConfig(10_000.0, "linear", 4.0), mx.float32, 8192))


def test_odd_chunks_with_trims_between_find_what_one_pass_finds() -> None:
    rope = ROPES["llama-3.1"]
    whole, cut = haystack(rope, mx.float32, 9000, 9000), haystack(rope, mx.float32, 9000, 333)
    assert mx.array_equal(whole.layer.keys[:, :, :9000], cut.layer.keys[:, :, :9000]).item()  # type: ignore[index]
    check(cut)


def test_a_key_or_query_one_position_off_is_found_out() -> None:
    """What this file relies on: the test above fails for an offset that is wrong by one."""
    hay = haystack(ROPES["llama-3.1"], mx.bfloat16, 8192)
    start = hay.layer.offset
    late = hay.layer.attend(hay.queries([[4000]], start + 1, start), *hay.kv(1, start, start))
    assert read(late[0]).tolist() == [[4001]]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_rows_of_different_length_find_their_own_positions_in_shared_slots(dtype: mx.Dtype) -> None:
    rope, lengths, needles = ROPES["llama-3.1"], (32_700, 20_001), (31_999, 4097)
    hays = [haystack(rope, dtype, length) for length in lengths]
    slots = Slots(1)
    for hay in hays:
        slots.join([hay.layer])
    assert slots.begin() == list(lengths)
    layer, parts = slots.layers[0], []
    for hay, length, needle in zip(hays, lengths, needles, strict=True):
        parts.append((hay.queries([[needle]], 0, length), *hay.kv(1, 0, length)))
    q, k, v = (mx.concatenate(arrays) for arrays in zip(*parts, strict=True))  # [B, 1, 1, D], rotated by 0: not at all
    rotate = Rotation(rope, D)
    found = layer.attend(rotate(q, layer.offset), rotate(k, layer.offset), v)
    assert read(found).reshape(-1).tolist() == list(needles)


@pytest.mark.parametrize("source", list(checkpoints.CONFIGS), indirect=True)
def test_models_rotate_queries_and_keys_by_the_position_in_their_cache(lm: elm_mlx.LanguageModel) -> None:
    states = mx.random.normal((1, 3, lm.config.model_dim), key=mx.random.key(0))
    for block in lm.model.blocks:
        before = [np.array(x, np.float64) for x in block.before(states, 0)]
        for offset in (131_069, mx.array([131_069])):
            q, k, v = (np.array(x, np.float64) for x in block.before(states, offset))
            for now, then in ((q, before[0]), (k, before[1])):
                assert np.abs(now - turned(then, lm.config.rope, 131_069)).max() <= 0.02 * np.abs(then).max()
            assert np.array_equal(v, before[2])


@each_rope
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
def test_angles_are_float32_in_every_type(rope: RopeConfig, dtype: mx.Dtype) -> None:
    """What a type loses is its own rounding: at position 131,071 the fastest pair comes out within a hundredth of its
    length, though bfloat16 has no number between 130,560 and 131,072."""
    x = np.random.RandomState(0).standard_normal((1, 1, 1, D))
    given = mx.array(x).astype(dtype)
    exact = turned(np.array(given.astype(mx.float32), np.float64), rope, 131_071)
    rotated = np.array(Rotation(rope, D)(given, 131_071).astype(mx.float32), np.float64)
    own = {mx.float32: 0.0, mx.bfloat16: 2**-8, mx.float16: 2**-11}[dtype]
    assert np.abs(rotated - exact).max() <= (0.01 + own) * np.abs(x).max()
