"""The Hugging Face hub's cache on this machine, read and written here without huggingface_hub's code.

Its layout is huggingface_hub's: models--OWNER--NAME/refs/REVISION holds a commit, snapshots/COMMIT the files as links
into blobs, where each has its ETag as its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elm_mlx.arguments import Progress
from elm_mlx.errors import DiskFull
from elm_mlx.files import disk_errors, reading
from elm_mlx.library.download import BytesReport, has_etag
from elm_mlx.library.names import Repository
from elm_mlx.store.layout import is_complete
from elm_mlx.store.snapshot import Snapshot

COMMIT = r"[0-9a-f]{40}"


def cache_directory() -> Path:
    """The directory in which huggingface_hub keeps its files, by the environment variables that it reads."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(os.path.expanduser(named)))  # noqa: PTH111, as huggingface_hub reads them


def cache_variable() -> str:
    """The environment variable that says where the cache is, or that would if it were set."""
    named = (name for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") if os.environ.get(name))
    return next(named, "HF_HOME")


def folder_of(repository: str) -> Path:
    """A repository's folder in the cache."""
    return cache_directory() / f"models--{repository.replace('/', '--')}"


def commit_of(repository: Repository) -> str | None:
    """The commit that a revision stands for according to the cache; None where the cache does not say."""
    reference = folder_of(repository.name) / "refs" / repository.revision
    with reading(reference):
        named = (
            reference.read_bytes().decode("ascii", "replace").strip() if reference.is_file() else repository.revision
        )
    return named if re.fullmatch(COMMIT, named) else None


def find_snapshot(repository: Repository) -> Snapshot | None:
    """The cached files of a revision, which need not be all of its files; None where there are none."""
    if not (commit := commit_of(repository)):
        return None
    found = Snapshot(folder_of(repository.name), repository.name, commit)
    with reading(found.path):
        return found if found.path.is_dir() else None


def complete_snapshot(repository: Repository) -> Snapshot | None:
    """The cached files of a revision, if no file of its model is missing; else None."""
    found = find_snapshot(repository)
    return found if found and is_complete(found.path) else None


def link_blob(blob: Path, path: Path) -> None:
    """Makes `path` in a snapshot a blob's file as huggingface_hub does: by a relative link, or by moving the blob where
    the disk has no links."""
    if path.exists() and path.samefile(blob):
        return
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except FileExistsError:  # another process made the link first
        return
    except OSError:
        blob.replace(path)


def set_reference(repository: Repository, commit: str) -> None:
    """Writes into the cache which commit a revision is, as huggingface_hub does, once the snapshot is complete."""
    if repository.revision != commit:
        reference = folder_of(repository.name) / "refs" / repository.revision
        with cache_errors(f"{reference} cannot be written"):
            reference.parent.mkdir(parents=True, exist_ok=True)
            fresh = reference.with_name(f".{reference.name}.{os.getpid()}")
            fresh.write_text(commit, encoding="utf-8")
            fresh.replace(reference)


def remove_damaged(repository: Repository, progress: Progress | None = None) -> list[str]:
    """Reads every cached file of a revision, and removes the blobs whose bytes are not what their names say. Returns
    the files whose blobs are missing now: `hub.fetch_listing` fetches these and no others.

    `progress` is called with (bytes read, in all). A file that is no link, on a disk without links, is not checked.
    """
    found, blobs = find_snapshot(repository), folder_of(repository.name) / "blobs"
    with cache_errors(f"Checking {repository}"):
        files = [file for file in sorted(found.path.rglob("*")) if file.is_symlink()] if found else []
        sizes = {blob: blob.stat().st_size for file in files if (blob := blobs / file.readlink().name).exists()}
        done = 0
        for blob, size in sizes.items():
            if not has_etag(blob, blob.name, within(progress, done, sum(sizes.values()))):
                blob.unlink()
            done += size
        return [file.name for file in files if not file.exists()]


def within(progress: Progress | None, begin: int, in_all: int) -> BytesReport:
    """A callback for one file's bytes that reports progress over all files; `begin` bytes come before that file."""

    def report(count: int) -> None:
        if progress:
            progress(min(begin + count, in_all), in_all)

    return report


@contextmanager
def cache_errors(what: str) -> Iterator[None]:
    """Turns the disk's refusals into errors that say what to do about the cache."""
    try:
        with disk_errors(what, f"Check its permissions, or set {cache_variable()} to a folder of yours."):
            yield
    except DiskFull as error:
        elsewhere = f"Or set {cache_variable()} to a folder on another disk."
        raise DiskFull(error.message, f"Free some space and try again: what came is kept. {elsewhere}") from error
