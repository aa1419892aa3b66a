"""What an output is made of, from and with: conversion.json. No time and no place in it, so that the same input gives
the same bytes anywhere."""

from __future__ import annotations

import hashlib
import mmap
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx

from elm_mlx import __version__
from elm_mlx.convert.source import Source, weight_files
from elm_mlx.store.files import reading

VERSIONS = {"elm_mlx": __version__, "mlx": mx.__version__}  # type: ignore[attr-defined]
CACHED = re.compile(r"/models--([^/]+)/snapshots/([^/]+)$")  # a snapshot in the hub's cache
CHUNK = 2**26


@contextmanager
def of(source: Source, tokenizer: Path, options: dict[str, Any]) -> Iterator[Callable[[], dict[str, Any]]]:
    """Gives conversion.json's object when it is asked for: until then a thread takes the files' hashes, beside the
    conversion, which waits for MLX most of its time."""
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as thread:
        hashes = {file.name: thread.submit(describe, file, stop.is_set) for file in [*files(source), tokenizer]}
        try:
            yield lambda: {
                **VERSIONS,
                "options": options,
                "source": origin(source.directory) | {"layout": source.layout},
                "files": {file.name: hashes[file.name].result() for file in files(source)},
                "tokenizer": {tokenizer.name: hashes[tokenizer.name].result()},
            }
        finally:
            stop.set()


def files(source: Source) -> list[Path]:
    """What the weights come from: the configuration and the weights' files."""
    names = ["config.json", "params.json", *weight_files(source.where)]
    return [file for name in names if (file := source.directory / name).is_file()]


def origin(directory: Path) -> dict[str, str]:
    """Repository and revision, where the directory is a snapshot in the hub's cache; else its name."""
    place = directory.resolve()
    if found := CACHED.search(place.as_posix()):
        return {"repository": found[1].replace("--", "/", 1), "revision": found[2]}
    return {"directory": place.name}


def describe(file: Path, stopped: Callable[[], bool]) -> dict[str, Any]:
    """Size and sha256; the hub's cache names a large file by it."""
    blob = file.resolve()
    with reading(file), file.open("rb") as content:
        nbytes = file.stat().st_size
        known = blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name)
        return {"bytes": nbytes, "sha256": blob.name if known else sha256(content, nbytes, stopped)}


def sha256(file: BinaryIO, nbytes: int, stopped: Callable[[], bool]) -> str:
    """The hash of a file, over a map: each time it asks for bytes it would have to wait for the interpreter."""
    found = hashlib.sha256()
    content = memoryview(mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ) if nbytes else b"")
    for begin in range(0, nbytes, CHUNK):
        if not stopped():
            found.update(content[begin : begin + CHUNK])
    return found.hexdigest()


def fingerprint(source: Source, *facts: object) -> str:
    """Of all that the weights' bytes come from: the versions, the facts, and the source's files, which count as changed
    with their size or time."""
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files(source)]
    return hashlib.sha256(repr((VERSIONS, source.layout, states, facts)).encode()).hexdigest()
