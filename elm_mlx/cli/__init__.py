"""The command line. `main` is the `elm-mlx` program; `run` runs one command line and returns its exit code."""

from __future__ import annotations

import io
import os
import signal
import sys

HUNG_UP, INTERRUPTED, PIPE_CLOSED, TERMINATED = 129, 130, 141, 143


def run(arguments: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code; an error that a user can correct is a sentence on stderr.

    Everything is imported inside this function, so that Ctrl-C during the imports prints no traceback.
    """
    try:
        from elm_mlx.cli.group import call

        return call(arguments)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # ends the line on which the terminal shows ^C
        return INTERRUPTED
    except BrokenPipeError:
        return PIPE_CLOSED


def main() -> None:
    """The `elm-mlx` command."""
    for ending, code in ((signal.SIGHUP, HUNG_UP), (signal.SIGTERM, TERMINATED)):
        if signal.getsignal(ending) != signal.SIG_IGN:  # nohup has it ignored
            signal.signal(ending, lambda *_, code=code: sys.exit(code))  # an exception, so that all cleanup runs
    open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a Latin-1 terminal shows ? for what it does not have
    code = run()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python flushes once more at exit, and must print no error then
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def open_closed_streams() -> None:
    """Opens /dev/null for streams that the caller closed (`>&-`), else a file opened later takes their number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
