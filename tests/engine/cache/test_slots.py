"""Rows that share slots attend as each would in a cache of its own, and joining, leaving and writing copy no more than
they must."""

from __future__ import annotations

import random

import mlx.core as mx
import pytest

from elm_mlx.engine.cache.kv import KVCache
from elm_mlx.engine.cache.rows import Alone, Rows
from elm_mlx.engine.cache.slots import Slots

H, K, D, LAYERS = 4, 2, 8, 2


def normal(*shape: int, seed: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def filled(length: int, seed: int) -> list[KVCache]:
    """A cache of one row that holds `length` positions."""
    caches = [KVCache(1000, reserve=length + 1) for _ in range(LAYERS)]
    for number, cache in enumerate(caches):
        cache.append(normal(1, K, length, D, seed=seed + number), normal(1, K, length, D, seed=seed + number + 50))
    return caches


class Twin:
    """Slots, or several parts, beside caches of each row's own, which get the same keys and values."""

    def __init__(self, slots: Slots) -> None:
        self.slots, self.own, self.steps = slots, dict[int, list[KVCache]](), 0

    def join(self, length: int, seed: int) -> int:
        slot = self.slots.join(filled(length, seed))
        self.own[slot] = filled(length, seed)
        return slot

    def leave(self, slot: int) -> None:
        self.slots.leave(slot)
        del self.own[slot]

    def step(self) -> None:
        """One step of all rows, in both; asserts that they agree."""
        self.steps += 1
        self.slots.begin()
        span = self.slots.span
        B = span.stop - span.start
        for number, layer in enumerate(self.slots.layers):
            q, k, v = (normal(B, heads, 1, D, seed=1000 * self.steps + number + 10 * n)
                       for n, heads in enumerate((H, K, K)))  # fmt: skip
            together = layer.attend(q, k, v)
            assert not mx.any(mx.isnan(together)).item()  # of a free slot neither
            for slot, own in self.own.items():
                row = slice(slot - span.start, slot - span.start + 1)
                alone = own[number].attend(q[row], k[row], v[row])
                assert mx.allclose(together[row], alone, atol=1e-5).item()
        self.slots.end()


@pytest.mark.parametrize("grow_by", [0, 8])
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 5))])
def test_rows_that_come_and_go_attend_as_alone(seed: int, grow_by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elm_mlx.engine.cache.slots.RESERVE", 8)  # so that the clock passes the last column often
    rng = random.Random(seed)
    twin = Twin(Slots(LAYERS, 2, grow_by))
    for _ in range(60):
        if rng.random() < 0.3 and len(twin.own) < 6:
            twin.join(rng.randint(1, 30), rng.randint(0, 99))
        if twin.own and rng.random() < 0.25:
            twin.leave(rng.choice(list(twin.own)))
        if twin.own:
            twin.step()
        for slot, own in twin.own.items():
            length = rng.randint(1, own[0].offset)
            copies = twin.slots.copy_out(slot, length)
            for copy, cache in zip(copies, own, strict=True):
                assert copy.offset == length
                for one, other in zip(copy.arrays(), cache.arrays(), strict=True):
                    assert mx.array_equal(one[:, :, :length], other[:, :, :length]).item()


def test_rows_of_equal_length_need_no_mask_and_others_one_for_each_number_of_heads() -> None:
    twin = Twin(Slots(LAYERS))
    for seed in range(2):
        twin.join(5, seed)
    twin.step()
    assert twin.slots.view.mask(H, 1, mx.float32) is None
    twin.join(9, 7)
    twin.step()
    mask = twin.slots.view.mask(H, 1, mx.float32)
    assert mask is not None
    assert mask.shape == (3, H, 1, 10)
    assert twin.slots.view.mask(H, 1, mx.float32) is mask
    readable = twin.slots.view.mask(H, 1, mx.bool_)
    assert readable is not None
    assert mx.sum(readable[:, 0, 0], axis=-1).tolist() == [7, 7, 10]
    assert mask.dtype == mx.bool_ or mx.array_equal(mask == 0, readable).item()


def test_a_longer_row_that_was_expected_is_read_without_the_columns_beside_it() -> None:
    for expects, read in ((0, 256), (30, 31)):  # unexpected, it goes on in the first columns, and all are read
        twin = Twin(Slots(LAYERS))
        twin.slots.expects = expects
        twin.join(5, 0)
        twin.join(30, 1)
        twin.step()
        columns = twin.slots.view.columns
        assert columns.stop - columns.start == read


def test_a_lone_row_has_a_number_for_its_offset_and_no_mask() -> None:
    twin = Twin(Slots(LAYERS))
    twin.slots.expects = 6
    first = twin.join(5, 0)
    last = twin.join(6, 1)
    twin.leave(first)
    twin.step()
    assert (twin.slots.span, twin.slots.layers[0].offset) == (slice(last, last + 1), 6)
    assert twin.slots.view.mask(H, 1, mx.float32) is None


def grown(work: object) -> int:
    """By how many bytes memory grows at most while `work` is done."""
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    work()  # type: ignore[operator]
    return mx.get_peak_memory() - before


def wide(length: int) -> list[KVCache]:
    """A row whose positions take 8 kB in a layer."""
    cache = KVCache(10_000, reserve=length + 1)
    cache.append(mx.zeros((1, 8, length, 128)), mx.zeros((1, 8, length, 128)))
    mx.eval(cache.arrays())
    return [cache]


def test_a_join_copies_one_row_and_a_leave_nothing() -> None:
    slots, rows = Slots(1, 4), [wide(2000) for _ in range(3)]
    for row in rows[:2]:
        slots.join(row)
    one = 2000 * 8192
    assert slots.nbytes > 4 * one
    assert grown(lambda: slots.join(rows[2])) < 0.1 * one  # it is written in place
    assert grown(lambda: slots.leave(1)) <= 0


def test_growing_moves_a_layer_at_a_time() -> None:
    slots = Slots(8, 2)
    rows = [[wide(1000)[0] for _ in range(8)] for _ in range(3)]
    for row in rows[:2]:
        slots.join(row)
    before = slots.nbytes
    row = rows.pop()
    one = sum(layer.nbytes for layer in row)
    more = grown(lambda: slots.join(row))  # four slots instead of two
    assert slots.nbytes == pytest.approx(4 * one, rel=0.01)
    assert slots.nbytes - before - one <= more < slots.nbytes - before + 0.3 * one  # the row gives way as it is moved


def test_a_copy_keeps_nothing_of_the_slots() -> None:
    slots = Slots(1, 2)
    for _ in range(2):
        slots.join(wide(1000))
    copy = slots.copy_out(1, 1000)
    mx.synchronize()
    held, taken = mx.get_active_memory(), slots.nbytes
    del slots
    assert held - mx.get_active_memory() == taken
    assert copy[0].offset == 1000


def test_parts_of_any_kind_make_one_batch() -> None:
    slots, own = Slots(LAYERS), [filled(4, 1), filled(30, 2)]
    twins = [filled(n, seed) for n, seed in ((5, 0), (7, 3), (4, 1), (30, 2))]
    for length, seed in ((5, 0), (7, 3)):
        slots.join(filled(length, seed))
    rows = Rows([slots, *map(Alone, own)])
    for step in range(3):
        rows.begin()
        for number, layer in enumerate(rows.layers):
            q, k, v = (normal(4, heads, 1, D, seed=100 * step + n) for n, heads in enumerate((H, K, K)))
            assert layer.offset.tolist() == [n + step for n in (5, 7, 4, 30)]  # type: ignore[union-attr]
            alone = [twin[number].attend(q[i : i + 1], k[i : i + 1], v[i : i + 1]) for i, twin in enumerate(twins)]
            assert mx.allclose(layer.attend(q, k, v), mx.concatenate(alone), atol=1e-5).item()
        rows.end()
