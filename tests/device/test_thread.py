"""The device thread: jobs run on it one after another, their callers get what they would get without it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from elm_mlx.device import job, thread
from elm_mlx.device.thread import DeviceThread, NotRun, let_go, on_device, running, start
from elm_mlx.errors import ElmError, EngineStopped


@pytest.fixture
def device() -> Iterator[DeviceThread]:
    """A device thread of the test's own."""
    one = DeviceThread()
    yield one
    one.end()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No device thread, whatever other tests have loaded."""
    monkeypatch.setattr(thread, "_running", None)


class Counter:
    """Work that takes so many steps."""

    def __init__(self, left: int, log: list[str], name: str) -> None:
        self.left, self.log, self.name = left, log, name
        self.stopped: ElmError | None = None

    @property
    def has_work(self) -> bool:
        return self.left > 0

    def step(self) -> None:
        self.left -= 1
        self.log.append(self.name)

    def tell(self) -> None:
        pass

    def shut(self, reason: ElmError) -> None:
        self.stopped = reason


class Late(Counter):
    """Work that puts off what it has to tell."""

    def tell(self) -> None:
        self.log.append("told")


def test_a_job_runs_on_the_thread_and_its_caller_gets_the_result_or_the_error(device: DeviceThread) -> None:
    assert device.call(lambda _: device.is_here) is True
    assert not device.is_here
    with pytest.raises(ZeroDivisionError):
        device.call(lambda _: 1 / 0)
    assert device.call(lambda _: 5) == 5  # it survived


def test_a_job_may_ask_for_a_job(device: DeviceThread) -> None:
    assert device.call(lambda _: device.call(lambda _: device.is_here)) is True


def test_callbacks_run_in_the_callers_thread(device: DeviceThread) -> None:
    heard: list[tuple[int, int, bool]] = []

    def work(relay: thread.Relay) -> str:
        progress = relay(lambda done, total: heard.append((done, total, device.is_here)))
        assert progress
        progress(1, 2)
        progress(2, 2)
        return "done"

    assert device.call(work) == "done"
    assert heard == [(1, 2, False), (2, 2, False)]


def test_a_callback_that_raises_ends_the_job_there_and_its_caller_goes_on_after_the_cleanup(
    device: DeviceThread,
) -> None:
    reached: list[str] = []

    def work(relay: thread.Relay) -> None:
        tick = relay(stop)
        assert tick
        try:
            tick()
            reached.append("end")
        finally:
            reached.append("tidied")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.call(work)
    assert reached == ["tidied"]


def test_a_callback_that_waits_for_the_device_itself_gets_its_answer(
    device: DeviceThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "CALLBACK_PATIENCE_S", 0.05)
    heard: list[int] = []

    def work(relay: thread.Relay) -> str:
        tick = relay(lambda done: heard.append(done + device.call(lambda _: 10)))
        assert tick
        for done in range(3):
            tick(done)
        return "done"

    assert device.call(work) == "done"
    assert heard == [10, 11, 12]


def test_turns_are_taken_in_turn_and_jobs_come_between_them(device: DeviceThread) -> None:
    log: list[str] = []
    one, other = Counter(3, log, "a"), Counter(3, log, "b")
    device.call(lambda _: device.turns.extend([one, other]))
    while one.left or other.left:
        time.sleep(0.001)
    assert log == ["a", "b"] * 3
    one.left = 10**9
    assert device.call(lambda _: "at once") == "at once"
    assert one.left > 0
    device.call(lambda _: device.turns.clear())


def test_an_error_that_belongs_to_nobody_does_not_end_the_thread(device: DeviceThread) -> None:
    told: list[object] = []

    class Wrong:
        def run(self) -> None:
            raise RuntimeError("wrong")

        def drop(self, error: ElmError) -> None: ...

    before, threading.excepthook = threading.excepthook, lambda args: told.append(args.exc_type)
    try:
        device.post(Wrong())
        assert device.call(lambda _: 1) == 1
    finally:
        threading.excepthook = before
    assert told == [RuntimeError]


def test_a_thread_that_ended_takes_nothing_and_tells_those_who_wait() -> None:
    device, log = DeviceThread(), list[str]()
    counter, began, go_on = Counter(0, log, "a"), threading.Event(), threading.Event()
    device.call(lambda _: device.turns.append(counter))
    refused: list[type[BaseException]] = []

    def ask(work: Callable[[thread.Relay], object]) -> None:
        try:
            device.call(work)
        except EngineStopped as error:
            refused.append(type(error))

    callers = [threading.Thread(target=ask, args=[lambda _: (began.set(), go_on.wait(10))])]
    callers[0].start()
    began.wait(10)
    callers.append(threading.Thread(target=ask, args=[lambda _: log.append("never")]))
    callers[1].start()
    while not device._inbox.qsize():
        time.sleep(0.001)
    ending = threading.Thread(target=device.end)
    ending.start()
    while device._is_open:
        time.sleep(0.001)
    go_on.set()  # what has begun comes to its end
    for one in (*callers, ending):
        one.join(10)
        assert not one.is_alive()
    assert (refused, log) == ([NotRun], [])
    assert isinstance(counter.stopped, EngineStopped)
    with pytest.raises(EngineStopped):
        device.call(lambda _: 1)


def test_what_a_job_worked_on_is_not_kept(device: DeviceThread) -> None:
    class Large: ...

    large = Large()
    gone = weakref.ref(large)
    device.call(lambda _, large=large: str(large))  # type: ignore[misc]
    del large
    assert gone() is None
    with pytest.raises(ValueError):
        device.call(fail_with_something_large)
    assert device.call(lambda _: [large for held in HELD if (large := held())]) == []


HELD: list[weakref.ref[object]] = []


def fail_with_something_large(_: object) -> None:
    class Large: ...

    large = Large()
    HELD.append(weakref.ref(large))
    raise ValueError


def test_without_a_thread_a_job_runs_where_it_is_asked_for(alone: None) -> None:
    def callback(done: int, total: int) -> None: ...

    assert on_device(lambda relay: (threading.current_thread(), relay(callback), relay(None))) == (
        threading.current_thread(),
        callback,
        None,
    )


def test_the_first_holder_starts_the_thread_and_the_last_ends_it(alone: None) -> None:
    one, other = object(), object()
    device = start(one)
    assert start(other) is device is running()
    assert on_device(lambda _: device.is_here)
    let_go(one)
    assert running() is device
    let_go(one)  # twice changes nothing
    assert running() is device
    let_go(other)
    assert running() is None
    assert not device._thread.is_alive()
    assert not on_device(lambda _: device.is_here)


def test_idle_time_is_not_time_without_progress(device: DeviceThread) -> None:
    device.call(lambda _: 1)
    while device.is_busy:
        time.sleep(0.001)
    before = time.perf_counter()
    is_busy, last_progress = device.call(lambda _: (device.is_busy, device.last_progress))
    assert is_busy
    assert last_progress >= before


def test_what_was_put_off_is_told_before_other_work(device: DeviceThread) -> None:
    log: list[str] = []
    alone = Late(10**6, log, "step")
    device.call(lambda _: device.turns.append(alone))
    while not log:
        time.sleep(0.001)
    device.call(lambda _: log.append("job"))
    assert log[log.index("job") - 1] == "told"
    device.call(lambda _: device.turns.append(Counter(3, log, "other")))
    while log.count("other") < 3:
        time.sleep(0.001)
    assert log[log.index("other") - 1] == "told"
    alone.left = 0
    device.call(lambda _: device.turns.clear())


def test_with_nothing_left_to_do_nothing_is_left_to_tell(device: DeviceThread) -> None:
    log: list[str] = []
    device.call(lambda _: device.turns.append(Late(2, log, "step")))
    device.call(lambda _: None)
    while log.count("step") < 2 or log[-1] != "told":
        time.sleep(0.001)
    device.call(lambda _: device.turns.clear())
