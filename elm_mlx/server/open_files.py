"""How many files and connections this process may have open."""

from __future__ import annotations

import sys
from contextlib import suppress

OTHERS = 128  # open files beside the connections: weights, libraries, logs, the sockets that listen


def allow_connections(connections: int) -> None:
    """Raises this process's own limit of open files, where it is too low for so many connections and the machine lets
    it be raised: a shell on macOS gives 256."""
    if sys.platform == "win32":
        return
    import resource  # here, as it exists on Unix alone

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHERS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # then connections beyond the limit wait in the kernel's queue
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
