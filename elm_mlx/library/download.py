"""Downloads one file from the hub: continues where an earlier process stopped, and checks the bytes by their hash.

huggingface_hub (2.4) begins a file again in every process and takes any bytes that come. So a file is fetched here, to
the place where huggingface_hub's cache keeps the content of its ETag, and huggingface_hub then finds it there.
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
PATIENCE_S = 30  # without a byte before a download gives up; waits double from one second, which makes five tries
POLL_S, SILENCE_S = 0.1, 1  # between two tries for a lock; of waiting before a message says so
CHUNK = 1 << 20
TRANSIENT = (408, 429, 500, 502, 503, 504)
# The client's HTTP library differs between huggingface_hub's versions; the names of its errors do not.
UNCONNECTED = {"ConnectError", "ConnectTimeout"}
CUT = {"NetworkError", "TimeoutException", "RemoteProtocolError"}

BytesReport = Callable[[int], None]
Say = Callable[[str], None]
Request = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]
"""Requests a file's bytes from a position on; gives (the position at which they do begin, chunks of bytes)."""


def fetch_blob(request: Request, blob: Path, size: int | None, report: BytesReport, say: Say | None = None) -> None:
    """Fetches `blob`, a file whose name is the hub's ETag, by `request`. `report` is called with the bytes there, `say`
    with a sentence where another process fetches the file already.

    Raises BadCheckpoint for bytes that do not have this ETag, and what the hub's client raises where another try is of
    no use.
    """
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(blob)
    with lock_partial(partial, say):
        if is_there(blob, size):  # another process fetched it meanwhile
            return
        fetch_rest(request, partial, size, report)
        if not has_etag(partial, blob.name):
            partial.write_bytes(b"")  # emptied, not removed: another process may wait for its lock
            raise BadCheckpoint("The bytes that came are not those that the hub names; a proxy may have changed them.",
                                "Try again.")  # fmt: skip
        partial.replace(blob)


def partial_of(blob: Path) -> Path:
    """The file that collects the bytes of a blob until all are there."""
    return blob.with_name(f"{blob.name}.elm-mlx.partial")


def is_there(path: Path, size: int | None) -> bool:
    """Whether a file exists, with `size` bytes unless that is None."""
    return path.exists() and size in (None, path.stat().st_size)


@contextmanager
def lock_partial(partial: Path, say: Say | None = None) -> Iterator[None]:
    """Locks the file against other elm-mlx processes. The system unlocks it when this process ends, however it ends."""
    with partial.open("ab") as file:
        begun = time.monotonic()
        while not try_lock(file):
            if say and time.monotonic() - begun > SILENCE_S:
                say("Another elm-mlx is fetching the same file; waiting for it.")
                say = None
            time.sleep(POLL_S)
        yield


def try_lock(file: BinaryIO) -> bool:
    """Takes the lock unless another process holds it; returns whether it did."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def fetch_rest(request: Request, partial: Path, size: int | None, report: BytesReport) -> None:
    """Fetches bytes until there are `size`; where that is None, until a connection ends without an error."""

    def there() -> int:
        return partial.stat().st_size

    if size is None or there() < size:
        retry(lambda: append_rest(request, partial, size, report), there)


def append_rest(request: Request, partial: Path, size: int | None, report: BytesReport) -> None:
    """Appends what is missing by one request. Takes no more than `size` bytes, and raises ConnectionError for fewer."""
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
    """Calls `attempt`, again after a cut connection and where the hub is busy; returns what it gives.

    Raises the last error where the next try would come more than PATIENCE_S after the last byte. `there` counts the
    bytes that have come; without it none come, and a hub that cannot be connected to is not asked again.
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
    """Whether another try may help: after a cut connection, where the hub is busy, and where it cannot be connected to
    although it was `reached` before."""
    response, kinds = getattr(error, "response", None), {kind.__name__ for kind in type(error).__mro__}
    if response is not None:
        return response.status_code in TRANSIENT
    if kinds & UNCONNECTED:
        return reached
    return bool(kinds & CUT) or isinstance(error, ConnectionError | TimeoutError)


def asked_wait_s(error: Exception) -> int:
    """Seconds that the hub asks to wait: by Retry-After, or by RateLimit until a used-up limit (r=0) is reset; or 0."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    found = re.fullmatch(r"(\d+)", headers.get("Retry-After", "")) or re.search(
        r"\br=0;\s*t=(\d+)", headers.get("RateLimit", "")
    )
    return int(found[1]) if found else 0


def has_etag(path: Path, name: str, report: BytesReport = lambda _: None) -> bool:
    """Whether a file's content has this ETag: a sha256 for large files, else the name that git gives a blob. An ETag
    of another form cannot be checked and counts as right. `report` is called with the bytes read so far."""
    hashes = {64: hashlib.sha256(), 40: hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)}
    if not (digest := hashes.get(len(name))):
        return True
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            report(file.tell())
    return digest.hexdigest() == name
