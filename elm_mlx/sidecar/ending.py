"""When a sidecar ends: its client asks for it, leaves, or dies; or a signal comes."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

from elm_mlx.errors import InvalidRequest

LOOK_S = 2.0  # how often to look whether the client's process is still there
MOST_PID = 2**31  # a pid is a positive int of C; those below mean groups of processes
SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}  # and the exit codes for them


class Ending:
    """The end of a process, which comes once, with an exit code. Made in the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = self._loop.create_future()
        self._watch: asyncio.Task[None] | None = None

    def end(self, code: int) -> None:
        """Ends the process; the first code counts."""
        if not self._code.done():
            self._code.set_result(code)

    async def wait(self) -> int:
        """Waits for the end, and returns its code."""
        code = await self._code
        if self._watch:
            self._watch.cancel()
        return code

    def end_with(self, pid: int) -> None:
        """Ends the process after the one with this number has ended, also where others keep its pipes open. Raises
        InvalidRequest where there is no such process."""
        if not is_alive(pid):
            raise InvalidRequest(f"There is no process {pid}: give processId the number of the client's own process.")
        if not self._watch:
            self._watch = self._loop.create_task(self._follow(pid))

    def heed_signals(self) -> None:
        """Ends the process where a signal asks for it. Only the main thread can be told of signals."""
        if threading.current_thread() is threading.main_thread():
            for number, code in SIGNALS.items():
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup has one ignored
                    self._loop.add_signal_handler(number, self.end, code)

    async def _follow(self, pid: int) -> None:
        while is_alive(pid):
            await asyncio.sleep(LOOK_S)
        self.end(0)


def is_alive(pid: int) -> bool:
    """Whether there is a process with this number."""
    if not 0 < pid < MOST_PID:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
