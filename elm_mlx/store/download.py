"""One file's bytes from the hub: goes on where an earlier process stopped, and ends as what its name says.

huggingface_hub (2.4) begins a file anew in every process and believes whatever bytes come. So a file is fetched here,
to where its cache keeps the content of that ETag, and huggingface_hub then finds it there.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from elm_mlx.errors import BadCheckpoint

TRIES = 5  # without a byte between them; the waits double from one second
TRANSIENT = (408, 429, 500, 502, 503, 504)

Report = Callable[[int], None]
Request = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]
"""Asks for a file's bytes from a place on; gives the place that they do begin at, and them."""


def fetch_blob(request: Request, blob: Path, size: int | None, report: Report) -> None:
    """Makes `blob`, whose name is the hub's ETag, from what `request` gives. `report` hears how many bytes are there.

    Raises BadCheckpoint for bytes that are not the name's, and what the hub's client raises once trying again is of
    no use.
    """
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(f"{blob.name}.elm-mlx.partial")
    with locked(partial):
        if blob.exists():  # another process was first
            return
        complete(request, partial, size, report)
        if not is_named(partial, blob.name):
            partial.write_bytes(b"")  # not unlinked: another process may wait for it
            raise BadCheckpoint(f"What came for {blob.name} are not the bytes that the hub names; a proxy may have "
                                "changed them. Try again.")  # fmt: skip
        partial.replace(blob)


@contextmanager
def locked(partial: Path) -> Iterator[None]:
    """Holds the file against other processes of ours; it is freed when this one ends, however it ends."""
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def complete(request: Request, partial: Path, size: int | None, report: Report) -> None:
    """Adds bytes until there are `size`, over cut connections and a hub that is busy."""
    failures = 0
    while (before := partial.stat().st_size) != size or size == 0:
        error: Exception = ConnectionError("the connection ended early")
        try:
            append(request, partial, report)
            if size is None or partial.stat().st_size == size:
                return
        except Exception as raised:
            error = raised
        failures = 0 if partial.stat().st_size > before else failures + 1
        if failures == TRIES or not is_transient(error):
            raise error
        time.sleep(2**failures / 2)


def append(request: Request, partial: Path, report: Report) -> None:
    """One request for what is missing."""
    with request(partial.stat().st_size) as (begin, chunks), partial.open("r+b") as file:
        file.seek(begin)
        file.truncate()
        for chunk in chunks:
            file.write(chunk)
            report(file.tell())


def is_transient(error: Exception) -> bool:
    """Whether asking again may help: a cut connection, a hub that is busy. The client's HTTP library, whose errors
    these are, differs between huggingface_hub's versions."""
    if response := getattr(error, "response", None):
        return response.status_code in TRANSIENT
    return type(error).__module__.startswith(("http", "ssl")) or isinstance(error, ConnectionError | TimeoutError)


def is_named(path: Path, name: str) -> bool:
    """Whether a file's content has this ETag: a sha256 for large files, else the name that git gives a blob."""
    with path.open("rb") as file:
        if len(name) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest() == name
        if len(name) == 40:
            return hashlib.sha1(b"blob %d\0" % path.stat().st_size + file.read()).hexdigest() == name
    return True
