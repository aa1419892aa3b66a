"""One file's bytes from the hub: goes on where an earlier process stopped, and ends as what its name says.

huggingface_hub (2.4) begins a file anew in every process and believes whatever bytes come. So a file is fetched here,
to where its cache keeps the content of that ETag, and huggingface_hub then finds it there.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from elm_mlx.errors import BadCheckpoint

T = TypeVar("T")
PATIENCE_S = 30  # without a byte; the waits within it double from one second, which makes five tries
POLL_S, SILENCE_S = 0.1, 1  # how often another's lock is tried, and how long without a word
CHUNK = 1 << 20
TRANSIENT = (408, 429, 500, 502, 503, 504)
# The client's HTTP library differs between huggingface_hub's versions; the names of its errors do not.
UNCONNECTED = {"ConnectError", "ConnectTimeout"}
CUT = {"NetworkError", "TimeoutException", "RemoteProtocolError"}

BytesReport = Callable[[int], None]
Say = Callable[[str], None]
Request = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]
"""Asks for a file's bytes from a place on; gives the place that they do begin at, and them."""


def fetch_blob(request: Request, blob: Path, size: int | None, report: BytesReport, say: Say | None = None) -> None:
    """Makes `blob`, whose name is the hub's ETag, from what `request` gives. `report` hears how many bytes are there,
    `say` that another process is at it.

    Raises BadCheckpoint for bytes that are not the name's, and what the hub's client raises once trying again is of
    no use.
    """
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(blob)
    with lock_partial(partial, say):
        if is_there(blob, size):  # another process was first
            return
        fetch_rest(request, partial, size, report)
        if not has_etag(partial, blob.name):
            partial.write_bytes(b"")  # not unlinked: another process may wait for it
            raise BadCheckpoint(f"What came for {blob.name} are not the bytes that the hub names; a proxy may have "
                                "changed them. Try again.")  # fmt: skip
        partial.replace(blob)


def partial_of(blob: Path) -> Path:
    """Where the bytes of a blob gather."""
    return blob.with_name(f"{blob.name}.elm-mlx.partial")


def is_there(path: Path, size: int | None) -> bool:
    """Whether a file is there, with so many bytes if that is known."""
    return path.exists() and size in (None, path.stat().st_size)


@contextmanager
def lock_partial(partial: Path, say: Say | None = None) -> Iterator[None]:
    """Holds the file against other processes of ours; it is freed when this one ends, however it ends."""
    with partial.open("ab") as file:
        begun = time.monotonic()
        while not try_lock(file):
            if say and time.monotonic() - begun > SILENCE_S:
                say("Another elm-mlx fetches the same file; waiting.")
                say = None
            time.sleep(POLL_S)
        yield


def try_lock(file: BinaryIO) -> bool:
    """Whether the lock could be had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def fetch_rest(request: Request, partial: Path, size: int | None, report: BytesReport) -> None:
    """Adds bytes until there are `size`, or without one until the connection ends well."""

    def there() -> int:
        return partial.stat().st_size

    if size is None or there() < size:
        retry(lambda: append_rest(request, partial, size, report), there)


def append_rest(request: Request, partial: Path, size: int | None, report: BytesReport) -> None:
    """One request for what is missing. Takes no more than `size` bytes, and raises ConnectionError for fewer."""
    with request(partial.stat().st_size) as (begin, chunks), partial.open("r+b") as file:
        file.seek(begin)
        file.truncate()
        for chunk in chunks:
            file.write(chunk)
            report(file.tell())
            if size is not None and file.tell() >= size:
                return
        if size is not None:
            raise ConnectionError("the connection ended early")


def retry(attempt: Callable[[], T], there: Callable[[], int] | None = None) -> T:
    """What `attempt` gives, asked again over cut connections and a hub that is busy.

    It gives up, with the last error, where the next try would come PATIENCE_S after the last byte: `there` counts the
    bytes. Without it nothing has come yet, and a hub that cannot be connected to is not asked again.
    """
    begun, failures, most = time.monotonic(), 0, there() if there else 0
    while True:
        try:
            return attempt()
        except Exception as error:
            failures += 1
            if there and there() > most:
                begun, failures, most = time.monotonic(), 0, there()
            pause = max(2**failures / 2, asked_wait_s(error))
            if not is_transient(error, there is not None) or time.monotonic() + pause > begun + PATIENCE_S:
                raise
        time.sleep(pause)


def is_transient(error: Exception, reached: bool) -> bool:
    """Whether asking again may help: a cut connection, a hub that is busy, or out of reach though it was `reached`."""
    response, kinds = getattr(error, "response", None), {kind.__name__ for kind in type(error).__mro__}
    if response is not None:
        return response.status_code in TRANSIENT
    if kinds & UNCONNECTED:
        return reached
    return bool(kinds & CUT) or isinstance(error, ConnectionError | TimeoutError)


def asked_wait_s(error: Exception) -> int:
    """Seconds that the hub asks to wait: by Retry-After, or until a rate limit that is used up (r=0) begins anew."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    found = re.fullmatch(r"(\d+)", headers.get("Retry-After", "")) or re.search(
        r"\br=0;\s*t=(\d+)", headers.get("RateLimit", "")
    )
    return int(found[1]) if found else 0


def has_etag(path: Path, name: str, report: BytesReport = lambda _: None) -> bool:
    """Whether a file's content has this ETag: a sha256 for large files, else the name that git gives a blob. An ETag
    of another form says nothing. `report` hears how many bytes are read."""
    hashes = {64: hashlib.sha256(), 40: hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)}
    if not (digest := hashes.get(len(name))):
        return True
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            report(file.tell())
    return digest.hexdigest() == name
