"""A rank above 0 from its start to its end: it loads its part, and does what rank 0 says."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

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
        with ignoring_interrupts(), ranks.together():
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
def ignoring_interrupts() -> Iterator[None]:
    """Ignores Ctrl-C inside, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
