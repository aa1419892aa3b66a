"""Signals that end a command, held back while something must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Has Ctrl-C, SIGTERM and SIGHUP come after what is inside. In another thread than the main one, which alone gets
    them, it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number))
              for number in ENDING if callable(signal.getsignal(number))}  # fmt: skip
    try:
        yield
    finally:
        for number, usual in reversed(before.items()):  # SIGINT last: its exception must not leave the others held
            signal.signal(number, usual)
        if came:
            signal.raise_signal(came[0])
