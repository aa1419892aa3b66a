"""Waking those who wait: one thread after the other, and nobody is forgotten."""

from __future__ import annotations

import random
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from elm_mlx.engine.handle import CallWaiter, Handle, ThreadWaiter, Wakes
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence

LIMIT_S = 20.0


def make_handle(ids: int = 1000) -> tuple[Handle, Sequence]:
    """A request that may get so many ids, as its reader sees it and as the engine does."""
    request = Request((1,), ids)
    handle, sequence = Handle(request), Sequence(0, request, ids)
    handle.begin(sequence)
    return handle, sequence


def make_waiters(count: int) -> tuple[list[ThreadWaiter], Wakes]:
    """Waiters of threads beside the main one, and what wakes them together."""
    wakes = Wakes()
    with ThreadPoolExecutor(1) as pool:
        waiters = [pool.submit(ThreadWaiter).result() for _ in range(count)]
    for waiter in waiters:
        waiter.wake(wakes)
    return waiters, wakes


def test_the_first_thread_is_woken_and_it_wakes_the_others() -> None:
    waiters, wakes = make_waiters(3)
    wakes.carry_out()
    assert [waiter.wait(0) for waiter in waiters] == [True, False, False]
    waiters[0].leave()
    assert [waiter.wait(0) for waiter in waiters[1:]] == [True, False]


def test_a_thread_that_has_left_is_passed_over() -> None:
    waiters, wakes = make_waiters(3)
    waiters[0].leave()  # its time was over before it was woken
    waiters[1].leave()
    wakes.carry_out()
    assert waiters[2].wait(0)


def test_a_thread_that_leaves_when_it_was_woken_already_still_wakes_the_others() -> None:
    waiters, wakes = make_waiters(2)
    wakes.carry_out()
    waiters[0].leave()  # interrupted: it never came back from its wait
    assert waiters[1].wait(0)


def test_the_main_thread_is_woken_at_once() -> None:
    waiter, wakes = ThreadWaiter(), Wakes()
    waiter.wake(wakes)
    assert waiter.wait(0)
    assert not wakes.threads


def test_the_main_thread_counts_among_those_who_are_woken() -> None:
    """The device thread lets it have the interpreter for its first id, as all others."""
    gone, waiter, wakes = ThreadWaiter(), ThreadWaiter(), Wakes()
    gone.leave()
    gone.wake(wakes)
    assert not wakes.are_any
    waiter.wake(wakes)
    gone.wake(wakes)
    assert wakes.are_any


@pytest.mark.parametrize("seed", range(3))
def test_every_reader_gets_every_id_though_some_give_up_again_and_again(seed: int) -> None:
    rng = random.Random(seed)
    answers = [make_handle(200) for _ in range(8)]

    def read(handle: Handle, patience: float | None) -> int:
        while (state := handle.state).finish is None:
            handle.wait(state, patience)
        return handle.state.ids

    with ThreadPoolExecutor(8) as pool:
        patience = [rng.choice([None, 0.0, 0.0002]) for _ in answers]
        readers: list[Future[int]] = [
            pool.submit(read, handle, wait) for (handle, _), wait in zip(answers, patience, strict=True)
        ]
        for _ in range(200):
            wakes = Wakes()
            for handle, sequence in answers:
                sequence.accept(1, 0.0, 0.0)
                handle.wake(wakes)
            wakes.carry_out()
        assert [reader.result(LIMIT_S) for reader in readers] == [200] * 8


@pytest.mark.parametrize("hears", [False, True])
def test_who_waits_for_an_id_is_woken_by_what_was_read_of_the_prompt_only_if_asked_to(hears: bool) -> None:
    handle, sequence = make_handle()
    handle.hears_reading = hears
    woken: list[int] = []
    assert handle.enlist(CallWaiter(lambda: woken.append(len(sequence.ids))), handle.state)
    sequence.read = 1
    handle.tell()
    sequence.ids.append(7)
    handle.tell()
    assert woken == [0 if hears else 1]
