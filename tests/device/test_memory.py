"""What a model may take of a machine, and what is held there for it."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.api.cache_plan import workers_of
from elm_mlx.config import config_from_dict
from elm_mlx.device import memory as machine
from elm_mlx.device.memory import CachePlan, plan_caches, room_beside, too_large
from elm_mlx.device.thread import running
from elm_mlx.errors import NotEnoughMemory

GB, MB = 10**9, 10**6


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The limits that are set on what looks like a Mac for which Metal recommends 16 GB, 5 of them in use."""
    limits: list[int] = []
    monkeypatch.setattr(mx, "device_info", lambda: {machine.RECOMMENDED: 16 * GB})
    monkeypatch.setattr(mx, "get_active_memory", lambda: 5 * GB)
    monkeypatch.setattr(mx, "set_wired_limit", limits.append)
    return limits


def test_a_large_model_and_its_cache_are_wired_and_nothing_else(wired: list[int]) -> None:
    machine.wire(4 * GB)
    machine.wire(100 * GB)
    assert wired == [9 * GB, 16 * GB]


def test_what_takes_less_than_half_is_left_to_macos(wired: list[int]) -> None:
    machine.wire(3 * GB)
    assert not wired


def test_a_load_wires_what_caches_may_come_to_take_and_a_request_nothing(
    wired: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache for the whole context of the demo, in the type of the activations, and those of other loaded models."""
    monkeypatch.setattr(machine, "WIRED_FROM", 0.0)
    demo = elm_mlx.load()
    position = 2 * sum(demo.config.num_kv_heads) * demo.config.head_dim * demo.model.dtype.size
    thread = running()
    assert thread
    others = sum(worker.wish.usual for worker in workers_of(thread)[:-1])
    expected = [5 * GB + demo.config.context_length * position + others]
    assert wired == expected
    demo.generate([1, 2, 3], 7)
    assert wired == expected


def test_where_there_is_no_metal_nothing_is_wired(wired: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "device_info", lambda: {"total_memory": 16 * GB})
    machine.wire(100 * GB)
    assert not wired


def test_what_a_small_model_is_expected_to_fill_does_not_wire_it(wired: list[int]) -> None:
    """All the room is its budget; it is wired for the number that somebody asked for alone."""
    machine.wire(plan_caches(None, room=10 * GB, usual=1 * GB).expected)
    assert not wired
    machine.wire(plan_caches(10 * GB, room=10 * GB, usual=1 * GB).expected)
    assert wired == [15 * GB]


@pytest.mark.parametrize(
    "requested, room, usual, plan",
    [
        (None, 8 * GB, 1 * GB, CachePlan(8 * GB, 2 * GB, 1 * GB)),
        (3 * GB, 8 * GB, 1 * GB, CachePlan(3 * GB, 750 * MB, 3 * GB)),
        (8 * GB, 8 * GB, 1 * GB, CachePlan(8 * GB, 2 * GB, 8 * GB)),
        (100, 8 * GB, 1 * GB, CachePlan(100, 25, 100)),
        (None, 0, 1 * GB, CachePlan(1 * GB, 250 * MB, 1 * GB)),  # a model that was loaded though it does not fit
    ],
)
def test_caches_get_what_is_asked_for_or_all_the_room(
    requested: int | None, room: int, usual: int, plan: CachePlan
) -> None:
    assert plan_caches(requested, room, usual) == plan


def test_more_for_caches_than_there_is_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        NotEnoughMemory, match=r"are to get 9\.00 GB, and beside the weights there are 8\.00 GB"
    ) as caught:
        plan_caches(9 * GB, 8 * GB, 1 * GB)
    assert (caught.value.needed, caught.value.available) == (9 * GB, 8 * GB)


def test_room_is_what_weights_and_headroom_leave() -> None:
    assert room_beside(4 * GB, 16 * GB) == 12 * GB - machine.HEADROOM_BYTES - 400 * MB
    assert room_beside(4 * GB, 4 * GB) == 0


@pytest.mark.parametrize("size", [machine.RECOMMENDED, "total_memory"])
def test_of_a_gpu_s_memory_the_weights_are_subtracted(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setattr(mx, "device_info", lambda: {size: 16 * GB})
    assert machine.cache_room(4 * GB) == machine.cache_room(4 * GB, caches=2 * GB) == room_beside(4 * GB, 16 * GB)


def test_in_free_memory_what_is_held_is_missing_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "device_info", dict)
    monkeypatch.setattr(machine, "free_memory", lambda: 10 * GB)
    headroom = machine.headroom(4 * GB)
    assert machine.cache_room(4 * GB) == 10 * GB - headroom
    assert machine.cache_room(4 * GB, caches=2 * GB) == 12 * GB - headroom


def test_a_second_model_on_a_gpu_has_the_memory_that_the_first_left(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_from_dict(checkpoints.CONFIGS["openelm"])
    monkeypatch.setattr(mx, "device_info", lambda: {"total_memory": 16 * GB})
    machine.check_memory("model", config, 9 * GB, 16)
    with pytest.raises(NotEnoughMemory, match=r"this machine has 7\.00 GB for it"):
        machine.check_memory("model", config, 9 * GB, 16, held=9 * GB)
    monkeypatch.setattr(mx, "device_info", dict)
    monkeypatch.setattr(machine, "free_memory", lambda: 16 * GB)
    machine.check_memory("model", config, 9 * GB, 16, held=9 * GB)


@pytest.mark.parametrize(
    "files, left",
    [
        ({}, None),
        ({"memory.max": "max\n", "memory.current": "5\n"}, None),
        ({"memory.max": "100\n"}, 100),
        ({"memory.max": "100\n", "memory.current": "70\n"}, 30),
        ({"memory.max": "100\n", "memory.current": "70\n", "memory.stat": "anon 50\ninactive_file 20\n"}, 50),
        ({"memory.max": "100\n", "memory.current": "110\n"}, 0),
    ],
)
def test_a_container_has_what_its_programs_do_not_use(tmp_path: Path, files: dict[str, str], left: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert machine.container_limit(tmp_path) == left


def test_a_request_that_never_fits_is_refused_with_the_numbers_and_what_to_do() -> None:
    error = too_large(900 * MB, 800 * MB, positions=9000)
    assert (error.needed, error.available, error.exit_code) == (900 * MB, 800 * MB, 71)
    assert str(error) == (
        "The request needs 900 MB of cache for 9,000 tokens, and caches have 800 MB here, enough for 8,000 tokens. "
        "Give fewer max_tokens, a shorter prompt, fewer kv_bits, or a model in fewer bits."
    )
    assert str(too_large(900 * MB, 800 * MB)).startswith(
        "The request needs 900 MB of cache, and caches have 800 MB here. "
    )
