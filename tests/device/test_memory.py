"""What a model may take of a machine, and what is held there for it."""

from __future__ import annotations

import mlx.core as mx
import pytest

import elm_mlx
from elm_mlx.device import memory as machine

GB = 10**9


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


def test_a_request_wires_what_it_may_fill(wired: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache for the prompt and every token that may follow, in the type of the activations."""
    monkeypatch.setattr(machine, "WIRED_FROM", 0.0)
    demo = elm_mlx.load()
    demo.stream([1, 2, 3], 7)
    position = 2 * sum(demo.config.num_kv_heads) * demo.config.head_dim * demo.model.dtype.size
    assert wired == [5 * GB + 10 * position]


def test_where_there_is_no_metal_nothing_is_wired(wired: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "device_info", lambda: {"total_memory": 16 * GB})
    machine.wire(100 * GB)
    assert not wired
