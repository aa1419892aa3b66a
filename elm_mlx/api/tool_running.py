"""Running the functions of tools for a session: each within its time, its result or its error as a text."""

from __future__ import annotations

import contextvars
import inspect
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from elm_mlx.arguments import shown
from elm_mlx.errors import InvalidRequest

if TYPE_CHECKING:
    import asyncio

MOST_CHARACTERS = 16_000  # of a result that the model is given: some thousand tokens
MOST_OF_ERROR = 1_000  # characters
WAS_CANCELLED = "The turn was cancelled."


class Call:
    """A function with its arguments, to be run once. Its result is a text, cut to MOST_CHARACTERS; so is whatever goes
    wrong in it, as a model can be told: nothing but the caller's own interruption is raised."""

    def __init__(self, name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self.name, self._function, self._arguments = name, function, arguments
        self._results: SimpleQueue[str] = SimpleQueue()
        self._answer: Callable[[str], None] = self._results.put  # the first one counts

    def cancel(self) -> None:
        """Ends the wait for the result, from any thread."""
        self._answer(WAS_CANCELLED)

    def run(self, seconds: float) -> str:
        """Runs the function in a thread of its own and waits for it, at most so many seconds. A function that is late
        is left alone: no thread can be ended from outside."""
        self._start_thread()
        try:
            return self._results.get(timeout=seconds)
        except Empty:
            return self._late(seconds)

    async def arun(self, seconds: float) -> str:
        """Runs the function as `run` does, without blocking the event loop: an async one in this loop, where it is
        cancelled when it is late, any other in a thread of its own."""
        import asyncio  # here, as it takes long to import

        loop = asyncio.get_running_loop()
        result: asyncio.Future[str] = loop.create_future()
        self._answer = partial(_call_in, loop, _settle, result)
        if not self._results.empty():  # it was cancelled before this
            return self._results.get()
        task = loop.create_task(self._awaited()) if inspect.iscoroutinefunction(self._function) else None
        if not task:
            self._start_thread()
        try:
            await asyncio.wait({result}, timeout=seconds)  # not wait_for, which waits for a task that it has cancelled
            return result.result() if result.done() else self._late(seconds)
        finally:
            if task:
                task.cancel()

    def _start_thread(self) -> None:
        context = contextvars.copy_context()

        def work() -> None:
            self._answer(context.run(self._text))

        threading.Thread(target=work, name=f"elm-mlx tool {self.name}", daemon=True).start()

    def _text(self) -> str:
        """The result as a text, in the function's thread."""
        try:
            result = self._function(**self._arguments)
            return result_text(_run(result) if inspect.isawaitable(result) else result)
        except BaseException as error:  # also SystemExit: it is the tool's, and not this program's
            return error_text(error)

    async def _awaited(self) -> None:
        """Answers with the result of an async function as a text, in the caller's event loop."""
        try:
            self._answer(result_text(await self._function(**self._arguments)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # where the task was cancelled, nobody waits for the answer any more
            self._answer(error_text(error))

    def _late(self, seconds: float) -> str:
        return f"Error: the tool {self.name} gave no result within {seconds:g} seconds."


def _run(work: Awaitable[Any]) -> Any:
    """The result of an async function, in an event loop of this thread's own."""
    import asyncio

    async def wait() -> Any:
        return await work

    return asyncio.run(wait())


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    """Calls something in an event loop's thread, unless the loop is closed: nobody waits there any more."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        return


def _settle(future: asyncio.Future[str], text: str) -> None:
    if not future.done():
        future.set_result(text)


def result_text(result: object) -> str:
    """What a tool returned, as the model is given it: a text as it is, anything else as JSON, else as Python shows it,
    cut to MOST_CHARACTERS. Raises what the value's own methods raise."""
    return cut(result if isinstance(result, str) else written(result))


def written(value: object) -> str:
    """A value that is no text as JSON, or else as Python shows it."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def cut(text: str) -> str:
    """A text of at most MOST_CHARACTERS, with a sentence where it was longer; halves of characters are replaced."""
    kept = text[:MOST_CHARACTERS].encode("utf-8", "replace").decode()
    if len(text) <= MOST_CHARACTERS:
        return kept
    return f"{kept}\n[Cut: these are the first {MOST_CHARACTERS:,} of {len(text):,} characters.]"


def error_text(error: BaseException) -> str:
    """An error as the model is told it."""
    try:
        said = str(error)
    except Exception:  # a tool's own error may raise while it is written
        said = ""
    return cut(f"Error: {type(error).__name__}: {said[:MOST_OF_ERROR]}".removesuffix(": "))


def check_seconds(name: str, value: Any) -> float:
    """Returns a number of seconds above 0. Raises InvalidRequest for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= threading.TIMEOUT_MAX:
        raise InvalidRequest(f"{name} is {shown(value)}; it must be a number of seconds above 0.")
    return float(value)
