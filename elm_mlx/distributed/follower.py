"""A rank above 0 from its start to its end: it loads its part, and does what rank 0 says."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from elm_mlx.api.loading import in_context, pull_directory
from elm_mlx.api.over_ranks import load_part, open_shared, refuse_beside
from elm_mlx.arguments import Progress
from elm_mlx.device import release
from elm_mlx.device.backend import mx
from elm_mlx.device.job import Relay
from elm_mlx.device.thread import DeviceThread, let_go, start
from elm_mlx.distributed.following import FollowingEngine
from elm_mlx.distributed.ranks import Ranks
from elm_mlx.engine.limits import ROWS
from elm_mlx.errors import ElmError

TOLD_S = 3.0  # for rank 0 to close the model, where this rank was told to end


def follow(
    model: str | Path | None,
    ranks: Ranks,
    *,
    bits: int | None = None,
    cpu_policy: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
    cache_bytes: int | None = None,
    rows: int = ROWS,
    context: int | None = None,
) -> None:
    """Loads this rank's part of a model as `elm_mlx.load` does on rank 0, with the same arguments, and answers with the
    other ranks until rank 0 closes it. Ctrl-C is rank 0's: it is ignored here meanwhile.

    Raises RankFailed where this rank or another one fails; it is on stderr then already, and the process ends soon,
    whatever is done.
    """
    holder = object()
    thread = start(holder)

    def run(relay: Relay) -> None:
        refuse_beside(thread, ranks)
        loaded = load_part(pull_directory(model, bits, force), cpu_policy, relay(progress), force, ranks)
        loaded = replace(loaded, config=in_context(loaded.config, context))
        engine, _ = open_shared(loaded, ranks, (cache_bytes, rows, sys.maxsize), FollowingEngine)
        obey_all(engine, ranks)
        release(loaded.execution)

    try:
        with signals_of_follower(ranks), ranks.together():
            thread.call(run)
    finally:
        end(thread, holder, ranks)


def obey_all(engine: FollowingEngine, ranks: Ranks) -> None:
    """Does what rank 0 says until it closes the model. On the device thread."""
    while engine.obey(ranks.told()):
        pass
    engine.close()
    ranks.close()
    mx.clear_cache()


def end(thread: DeviceThread, holder: object, ranks: Ranks) -> None:
    """Gives the device thread back, unless the run has failed: then it may hang, and the process ends anyway."""
    if not ranks.has_failed:
        let_go(holder)
    else:
        thread.holders.discard(holder)


@contextmanager
def signals_of_follower(ranks: Ranks) -> Iterator[None]:
    """Ignores Ctrl-C inside, where this is the main thread. A signal that ends this process, as its handler has it,
    ends the run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def leave(number: int, frame: FrameType | None) -> None:
        leave_soon(ranks)
        before[signal.Signals(number)](number, frame)  # type: ignore[operator, misc]

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if callable(before[number]):
            signal.signal(number, leave)
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


def leave_soon(ranks: Ranks) -> None:
    """This rank was told to end. So was rank 0, perhaps, which closes the model then; if it does not, the run fails, as
    the others cannot go on alone."""
    timer = threading.Timer(TOLD_S, lambda: ranks.fail(ElmError("it was told to end, and the others were not.")))
    timer.daemon = True
    timer.start()
