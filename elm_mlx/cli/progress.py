"""A progress bar for what takes longer than a second; shown only where stderr is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from elm_mlx.cli.interrupts import signals_held_back
from elm_mlx.cli.messages import bar_consoles, is_quiet

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE_S = 1.0
SHORT_S, LONG_S = 30.0, 600.0  # the last part of the work, from which the bar tells what is left


class ProgressBar:
    """Call it with (done, total); the bar appears after a second, so quick work shows nothing. It counts parts, or
    bytes, or `in_percent`, for long work with uneven steps: what is left of that is told from its last minutes."""

    def __init__(self, label: str, *, in_bytes: bool, in_percent: bool = False) -> None:
        self.label, self.in_bytes, self.in_percent = label, in_bytes, in_percent
        self.begun = time.monotonic()
        self.bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int, total: int) -> None:
        if done >= total:
            self.stop()
            return
        with signals_held_back():  # rich leaves the terminal half set up where an exception meets it
            if self.bar is None and self.is_wanted() and time.monotonic() - self.begun > PATIENCE_S:
                self.bar = self._make_bar(total)
                bar_consoles.append(self.bar.console)
                self.bar.start()
            if self.bar:
                self.bar.update(self.bar.task_ids[0], completed=done)

    def stop(self) -> None:
        """Removes the bar from the terminal."""
        with signals_held_back():
            if self.bar:
                self.bar.stop()
                bar_consoles.remove(self.bar.console)
                self.bar = None

    def is_wanted(self) -> bool:
        """Whether stderr is a terminal and the command was not given --quiet."""
        return sys.stderr.isatty() and not is_quiet()

    def _make_bar(self, total: int) -> Progress:
        from rich import progress
        from rich.console import Console

        of_bytes = (progress.DownloadColumn(), progress.TransferSpeedColumn())
        of_parts = progress.TaskProgressColumn() if self.in_percent else progress.MofNCompleteColumn()
        count = of_bytes if self.in_bytes else (of_parts,)
        columns = ["{task.description}", progress.BarColumn(), *count, progress.TimeRemainingColumn()]
        period = LONG_S if self.in_percent else SHORT_S
        console = Console(stderr=True)
        bar = progress.Progress(*columns, console=console, transient=True, speed_estimate_period=period)
        bar.add_task(self.label, total=total)
        return bar

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


@contextmanager
def bars(*labels: str) -> Iterator[list[ProgressBar]]:
    """Progress bars in bytes, one for each step of a work, all removed at the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(ProgressBar(label, in_bytes=True)) for label in labels]
