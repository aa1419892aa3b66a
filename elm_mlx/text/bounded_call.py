"""A call that takes a limited time, in a thread of its own: for libraries that compute without the interpreter's
lock and cannot be interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from elm_mlx.errors import NotEnforceable, QueueFull

T = TypeVar("T")
STACK = 128 << 20  # bytes: a form of 64 kB can name rules in a chain of thousands, each a recursion
AT_ONCE = 2  # threads, so that forms which take too long cannot take all cores
FREE = threading.BoundedSemaphore(AT_ONCE)
SIZES = threading.Lock()  # held while the size of stacks, which is the process's, is another one


def call_within(seconds: float, call: Callable[[], T]) -> T:
    """Returns `call()`. Raises what it raises; NotEnforceable where it takes longer than `seconds`, and QueueFull where
    no thread becomes free for it in that time. A call that takes longer goes on until it ends by its own bounds."""
    if not FREE.acquire(timeout=seconds):
        raise QueueFull("Other forms of answers are being prepared. Ask again.")
    answer: list[Any] = []
    done = threading.Event()

    def work() -> None:
        try:
            answer.extend((call(), None))
        except BaseException as error:
            answer.extend((None, error))
        finally:
            FREE.release()
            done.set()

    start_thread(work)
    if not done.wait(seconds):
        raise NotEnforceable(f"The form of the answer takes more than {seconds:g} s to prepare. Make it simpler.")
    value, error = answer
    if error is not None:
        raise error
    return value


def start_thread(work: Callable[[], None]) -> None:
    """Starts a thread with a large stack, of which only what is used takes memory."""
    thread = threading.Thread(target=work, name="elm-mlx form")  # no daemon: it would outlive the interpreter
    with SIZES:
        usual = threading.stack_size(STACK)
        try:
            thread.start()
        except BaseException:
            FREE.release()
            raise
        finally:
            threading.stack_size(usual)
