"""Every kind of cache gives what its plain twin gives, however it is written, trimmed and copied."""

from __future__ import annotations

import random
from itertools import product

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from helpers.dense import dense_pass
from helpers.families import second_family_slow
from helpers.full_pass import CLOSE, relative

import elm_mlx
from elm_mlx.engine.cache.forms import Floats, Form, Quantized, form_of
from elm_mlx.engine.cache.kind import MARGIN, CacheKind
from elm_mlx.engine.cache.kind_cache import KindCache, make_kind_cache
from elm_mlx.engine.cache.kv import KVCache, cache_bytes
from elm_mlx.engine.cache.ring import Ring
from elm_mlx.errors import CacheFull, CannotTrim

KINDS = {
    "window": CacheKind(16),
    "sinks": CacheKind(16, 3),
    "sinks for a while": CacheKind(16, 5, reach=30),
    "a window as long as the sinks reach": CacheKind(24, 4, reach=24),
    "8 bits": CacheKind(None, 0, 8, 8),
    "k8v4": CacheKind(None, 0, 8, 4),
    "4 bits in a window": CacheKind(20, 2, 4, 4),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
# A number that lies between two steps of a quantization goes to either, where it differs in its last bit.
ROUNDED = 2e-2


def tolerance(kind: CacheKind) -> float:
    return CLOSE if kind.key_bits is None else ROUNDED


def caches(lm: elm_mlx.LanguageModel, kind: CacheKind, margin: int, capacity: int = 400) -> list[KindCache]:
    ring, form = Ring(kind.window, kind.sinks, margin, kind.reach), form_of(kind)
    return [KindCache(ring, form, capacity, 4) for _ in range(lm.config.num_layers)]


@second_family_slow
@each_kind
@pytest.mark.parametrize(
    ("chunk", "margins"), [(1, (5,)), pytest.param(1, (0, 30), marks=pytest.mark.slow), (7, (0, 5, 30)), (100, (0, 30))]
)
def test_any_chunks_give_what_one_pass_gives(
    lm: elm_mlx.LanguageModel, kind: CacheKind, chunk: int, margins: tuple[int, ...]
) -> None:
    ids = checkpoints.prompt(60)
    expected = dense_pass(lm, ids, kind)
    for margin in margins:
        cache = caches(lm, kind, margin)
        steps = [lm.model(mx.array([ids[i : i + chunk]]), cache) for i in range(0, len(ids), chunk)]
        assert relative(mx.concatenate(steps, axis=1)[0], expected) <= tolerance(kind)


def check_interleaving(lm: elm_mlx.LanguageModel, kind: CacheKind, seed: int, steps: int = 14) -> None:
    """Writes, trims and copies at random, and compares what every write gives with the twin."""
    rng = random.Random(seed)
    cache, ids = caches(lm, kind, rng.choice([0, 1, 8, 40])), list[int]()
    for _ in range(steps):
        if rng.random() < 0.3:
            n = rng.randint(0, cache[0].can_trim)
            assert {layer.trim(n) for layer in cache} == {n}
            ids = ids[: len(ids) - n]
        if rng.random() < 0.2:
            length = len(ids) - rng.randint(0, cache[0].can_trim)
            cache, ids = [layer.fork(length, 400, rng.choice([0, 30])) for layer in cache], ids[:length]
        new = checkpoints.prompt(rng.choice([1, 1, 1, 2, 5, 17, 50]), seed=rng.randint(0, 99))
        queries = rng.choice([1, len(new)])
        ids += new
        given = mx.array([new])
        logits = lm.model(given, cache) if queries > 1 else lm.model.head(lm.model.last_hidden(given, cache))[:, None]
        mx.eval([layer.arrays() for layer in cache])
        assert relative(logits[0], dense_pass(lm, ids, kind)[-logits.shape[1] :]) <= tolerance(kind)
        assert {layer.offset for layer in cache} == {len(ids)}


@second_family_slow
@each_kind
def test_writes_trims_and_copies_in_any_order_change_no_number(lm: elm_mlx.LanguageModel, kind: CacheKind) -> None:
    check_interleaving(lm, kind, 0)


@pytest.mark.slow
@second_family_slow
@each_kind
def test_many_more_orders_change_no_number(lm: elm_mlx.LanguageModel, kind: CacheKind) -> None:
    for seed in range(1, 7):
        check_interleaving(lm, kind, seed)


def block(count: int, first: int = 0, D: int = 64) -> mx.array:
    """Keys whose numbers are those of their positions, [1, 1, L, D]."""
    return mx.broadcast_to(mx.arange(first, first + count, dtype=mx.float32)[:, None], (1, 1, count, D))


def test_a_ring_holds_window_sinks_and_margin_and_moves_nothing() -> None:
    cache = KindCache(Ring(16, 4, 8), Floats(), 10**6, reserve=4)
    for position in range(200):
        cache.attend(block(1), block(1, position), block(1, position))
    held = [int(x) for x in cache.buffers[0][0, 0, :28, 0].tolist()]  # type: ignore[union-attr, arg-type]
    assert held[:4] == [0, 1, 2, 3]
    assert sorted(held[4:]) == list(range(176, 200))
    assert [held[4 + (p - 4) % 24] for p in range(176, 200)] == list(range(176, 200))


def test_what_was_overwritten_cannot_be_trimmed_and_the_error_says_so() -> None:
    cache = KindCache(Ring(16, 0, 8), Floats(), 1000)
    cache.attend(block(1), block(24), block(24))
    assert cache.can_trim == cache.offset == 24  # nothing was overwritten yet
    cache.attend(block(1), block(10), block(10))
    assert cache.can_trim == 9
    with pytest.raises(CannotTrim, match=r"10 positions are to be trimmed, .* 9 at most"):
        cache.trim(10)
    with pytest.raises(CannotTrim):
        cache.fork(20)
    assert (cache.offset, cache.trim(4), cache.can_trim, cache.fork(28).can_trim) == (34, 4, 5, 3)


def test_a_full_one_says_so_and_stays_as_it_was() -> None:
    cache = KindCache(Ring(16), Floats(), 20)
    cache.attend(block(1), block(18), block(18))
    with pytest.raises(CacheFull, match="holds 18 of 20 positions; 3 more"):
        cache.attend(block(1), block(3), block(3))
    with pytest.raises(CacheFull, match="holds 18 positions, more than the 6"):
        cache.resize(6)
    with pytest.raises(CacheFull, match="18 positions are to be copied into a cache of 5"):
        cache.fork(20, 5)
    assert (cache.offset, cache.capacity) == (18, 20)


def test_buffers_grow_step_by_step_up_to_the_ring() -> None:
    rooms = []
    cache = KindCache(Ring(16, 2, 14), Floats(), 10**6, reserve=4, grow_by=8)
    for _ in range(60):
        cache.attend(block(1), block(1), block(1))
        rooms.append(cache.buffers[0].shape[2])
    assert sorted(set(rooms)) == [4, 12, 20, 28, 32]
    short = KindCache(Ring(1000), Floats(), 20, reserve=4)
    short.attend(block(1), block(20), block(20))
    assert short.buffers[0].shape[2] == 21  # no more than a short request needs, and one to spare


@pytest.mark.parametrize("form", [Floats(), Quantized(8, 4)])
@pytest.mark.parametrize("sinks", [0, 3])
def test_writes_stay_in_place(sinks: int, form: Form) -> None:
    """A step past the window takes no second buffer, and neither does a turn of several positions."""
    cache = KindCache(Ring(20_000, sinks), form, 10**6, reserve=20_000)
    for length in (20_000, 10_000):
        cache.attend(block(1), block(length), block(length))
        mx.eval(cache.arrays())
    for length in (1, 100):
        mx.synchronize()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        for _ in range(2):
            cache.attend(block(1), block(length), block(length))
            mx.eval(cache.arrays())
        assert mx.get_peak_memory() - before <= 0.05 * cache.nbytes


def test_a_step_needs_no_mask_where_every_column_is_read() -> None:
    assert Ring(16, 0, 0).view(500, 1) == (slice(0, 16), None)
    assert Ring(16, 4, 0).view(500, 1) == (slice(0, 20), None)
    assert Ring(16, 4).view(16, 1) == (slice(0, 16), None)
    assert Ring(16, 4).view(20, 5) == (slice(0, 20), "causal")
    assert Ring(16).view(100, 1) == (slice(84, 100), None)  # the columns of a window that lies in one piece
    assert Ring().view(10**6, 3) == (slice(0, 10**6), "causal")
    assert Ring(16, 0, 8).view(26, 1).mask is not None
    assert Ring(16, 4, reach=50).view(100, 1) == (slice(84, 100), None)


def test_all_layers_of_a_step_share_one_mask() -> None:
    layers = make_kind_cache(CacheKind(16, 4), 3, 10**6)
    for layer in layers:
        layer.attend(block(1), block(600), block(600))
    masks = [layer.ring.view(600, 1).mask for layer in layers]
    assert masks[0] is not None
    assert all(mask is masks[0] for mask in masks)


@pytest.mark.parametrize("D", [16, 24, 32, 64, 80, 96, 128])
@pytest.mark.parametrize("bits", [(8, 8), (8, 4), (4, 4)])
def test_few_and_many_queries_read_the_same_numbers(D: int, bits: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(rng.standard_normal((1, heads, 40, D)), mx.float32) for heads in (6, 2, 2))
    form = Quantized(*bits)
    held = form.encode(k, v)
    many = form.attend(q[:, :, -9:], held, "causal")
    assert relative(form.attend(q[:, :, -8:], held, "causal"), many[:, :, 1:]) <= 1e-5
    assert relative(form.attend(q[:, :, -1:], held, None), many[:, :, -1:]) <= 1e-5


@pytest.mark.parametrize("D, bits", [*product([16, 24, 64, 80, 128], [None, (8, 8), (8, 4), (4, 4)])])
def test_the_bytes_that_are_planned_are_those_of_the_buffers(D: int, bits: tuple[int, int] | None) -> None:
    for window, positions in product([None, 16], [10, 1000]):
        kind = CacheKind(window, 2 if window else 0, *(bits or (None, None)))
        cache = make_kind_cache(kind, 3, positions, reserve=0)
        one = mx.ones((1, 2, positions, D), mx.float16)
        for layer in cache:
            layer.attend(one, one, one)
        columns = cache[0].buffers[0].shape[2]
        planned = kind.bytes_of(positions, 3 * 2 * 2 * D * 2, D, 16)
        assert cache_bytes(cache) * kind.columns(positions) == planned * columns
        assert columns <= kind.columns(positions) + 1


def test_eight_bits_take_at_most_55_percent_of_sixteen() -> None:
    plain = CacheKind().bytes_of(8192, 2048, 64, 16)
    assert CacheKind(None, 0, 8, 8).bytes_of(8192, 2048, 64, 16) <= 0.55 * plain
    assert CacheKind(1024, 4).bytes_of(8192, 2048, 64, 16) == (1024 + 4 + MARGIN) * 2048


def test_a_short_text_in_a_window_is_as_in_a_plain_cache() -> None:
    one, other = make_kind_cache(CacheKind(64, 4), 1, 100)[0], KVCache(100)
    rng = np.random.default_rng(0)
    for L in (10, 1, 5, 1):
        q, k, v = (mx.array(rng.standard_normal((1, heads, L, 16)), mx.float32) for heads in (4, 2, 2))
        assert bool((one.attend(q, k, v) == other.attend(q, k, v)).all())
