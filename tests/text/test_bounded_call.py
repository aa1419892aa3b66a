"""A call has its time of the processor, not of the clock, and what it gives or raises is its caller's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from elm_mlx.errors import NotEnforceable
from elm_mlx.text import bounded_call
from elm_mlx.text.bounded_call import call_within


@pytest.fixture
def ended() -> Iterator[threading.Event]:
    """What ends the calls of a test; waits until they have ended."""
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name == "elm-mlx form":
            thread.join()


def test_a_call_gives_its_value_or_its_error() -> None:
    assert call_within(1.0, lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        call_within(1.0, lambda: 1 // 0)


def test_a_call_that_computes_for_longer_is_refused(ended: threading.Event) -> None:
    def compute() -> None:
        while not ended.is_set():
            pass

    with pytest.raises(NotEnforceable, match=r"takes more than 0\.02 s"):
        call_within(0.02, compute)


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="this system shows no thread's time to others")
def test_a_call_that_the_machine_keeps_waiting_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_call, "PATIENCE", 1e9)
    assert call_within(0.05, lambda: time.sleep(0.2) or 5) == 5


def test_the_clock_counts_where_there_is_no_other_time(ended: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "pthread_getcpuclockid", raising=False)
    with pytest.raises(NotEnforceable, match=r"takes more than 0\.02 s"):
        call_within(0.02, ended.wait)


def test_one_that_waits_for_ever_is_refused(ended: threading.Event) -> None:
    with pytest.raises(NotEnforceable, match=r"takes more than 0\.02 s"):
        call_within(0.02, ended.wait)
