"""conversion.json: which files, with which options and versions, an output was made from. It holds no time and no
place, so that equal inputs give equal bytes anywhere."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx

from elm_mlx import __version__
from elm_mlx.convert.sources import Source
from elm_mlx.files import reading
from elm_mlx.store.snapshot import snapshot_at

VERSIONS = {"elm_mlx": __version__, "mlx": mx.__version__}  # type: ignore[attr-defined]
READ_BYTES = 2**26


@contextmanager
def hash_in_background(
    source: Source, tokenizer: list[Path], options: dict[str, Any]
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Yields a function that returns the object of conversion.json. Meanwhile a thread hashes the files of the
    source and the tokenizer, beside the conversion, which waits for MLX most of the time."""
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as thread:
        hashes = {file: thread.submit(identify_file, file, stop.is_set) for file in [*source.files, *tokenizer]}
        try:
            yield lambda: {
                **VERSIONS,
                "options": options,
                "source": origin(source.directory, source.name) | {"layout": source.layout},
                "files": {file.name: hashes[file].result() for file in source.files},
                "tokenizer": {file.name: hashes[file].result() for file in tokenizer},
            }
        finally:
            stop.set()


def origin(directory: Path, name: str | None = None) -> dict[str, str]:
    """Repository and revision of a directory in the hub's cache; of any other source its name, by default the
    directory's, as far as that is UTF-8."""
    if found := snapshot_at(directory):
        return {"repository": found.repository, "revision": found.commit}
    return {"directory": os.fsencode(name or directory.resolve().name).decode(errors="replace")}


def identify_file(file: Path, stopped: Callable[[], bool]) -> dict[str, Any]:
    """Size and sha256 of a file; the hub's cache names a large file by its sha256, which then need not be computed."""
    blob, cached = file.resolve(), snapshot_at(file.parent)
    with reading(file), file.open("rb") as content:
        nbytes = file.stat().st_size
        known = cached and blob.parent == cached.folder / "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name)
        return {"bytes": nbytes, "sha256": blob.name if known else sha256(content, nbytes, stopped)}


def sha256(file: BinaryIO, nbytes: int, stopped: Callable[[], bool]) -> str:
    """Hashes a file through a memory map: at every read the thread would have to wait for the interpreter."""
    found = hashlib.sha256()
    content = memoryview(mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ) if nbytes else b"")
    for begin in range(0, nbytes, READ_BYTES):
        if not stopped():
            found.update(content[begin : begin + READ_BYTES])
    return found.hexdigest()


def source_fingerprint(source: Source, *facts: object) -> str:
    """A hash of all that the weights' bytes come from: the versions, the `facts`, and the source's files, of which size
    and time stand for the content."""
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in source.files]
    return hashlib.sha256(repr((VERSIONS, source.layout, states, facts)).encode()).hexdigest()
