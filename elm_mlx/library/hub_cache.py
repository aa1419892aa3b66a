"""The Hugging Face hub's cache on this machine, read and written here without huggingface_hub's code.

Its layout is huggingface_hub's: models--OWNER--NAME/refs/REVISION holds a commit, snapshots/COMMIT the files as links
into blobs, where each has its ETag as its name.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elm_mlx.arguments import Progress
from elm_mlx.device.costs import gigabytes
from elm_mlx.errors import DiskFull
from elm_mlx.files import disk_errors, reading, standing
from elm_mlx.library.download import Report, is_named
from elm_mlx.library.names import Repository

COMMIT = r"[0-9a-f]{40}"
SNAPSHOT = re.compile(r"(.*/models--([\w.-]+))/snapshots/([\w.-]+)(/|$)", re.ASCII)
SPARE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Snapshot:
    """A commit of a repository as a cache holds it, in the repository's `folder` there."""

    folder: Path
    repository: str
    commit: str


def cache_directory() -> Path:
    """Where huggingface_hub keeps its files."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(os.path.expanduser(named)))  # noqa: PTH111, as huggingface_hub reads them


def folder_of(repository: str) -> Path:
    """A repository's folder in the cache."""
    return cache_directory() / f"models--{repository.replace('/', '--')}"


def commit_of(repository: Repository) -> str | None:
    """The commit that a revision is by the cache's word; None where it has none."""
    reference = folder_of(repository.name) / "refs" / repository.revision
    with reading(reference):
        named = (
            reference.read_bytes().decode("ascii", "replace").strip() if reference.is_file() else repository.revision
        )
    return named if re.fullmatch(COMMIT, named) else None


def snapshot(repository: Repository) -> Path | None:
    """The cached files of a revision; None where there are none. They may be some of them."""
    commit = commit_of(repository)
    path = folder_of(repository.name) / "snapshots" / (commit or "")
    with reading(path):
        return path if commit and path.is_dir() else None


def snapshot_at(directory: Path) -> Snapshot | None:
    """The snapshot that a directory is or lies in, in any cache; None elsewhere."""
    found = SNAPSHOT.match(directory.resolve().as_posix())
    return Snapshot(Path(found[1]), found[2].replace("--", "/", 1), found[3]) if found else None


def link(blob: Path, path: Path) -> None:
    """Makes a blob a snapshot's file as huggingface_hub does: by a relative link, or by moving it where the disk has
    no links."""
    if path.exists() and path.samefile(blob):
        return
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except FileExistsError:  # another process was first
        return
    except OSError:
        blob.replace(path)


def point(repository: Repository, commit: str) -> None:
    """Says in the cache which commit a revision is, as huggingface_hub does; only once the snapshot is whole."""
    if repository.revision != commit:
        reference = folder_of(repository.name) / "refs" / repository.revision
        with cache_errors(f"{reference} cannot be written"):
            reference.parent.mkdir(parents=True, exist_ok=True)
            fresh = reference.with_name(f".{reference.name}.{os.getpid()}")
            fresh.write_text(commit, encoding="utf-8")
            fresh.replace(reference)


def verify(repository: Repository, progress: Progress | None = None) -> list[str]:
    """Reads every cached file of a revision, and removes the blobs whose bytes are not what their names say. Gives the
    files whose blobs are not there now: `hub.fetch` brings these and no others.

    `progress` hears (bytes read, in all). A file that is no link, on a disk without them, is taken as it is.
    """
    folder, blobs = snapshot(repository), folder_of(repository.name) / "blobs"
    with cache_errors(f"Checking {repository}"):
        files = [file for file in sorted(folder.rglob("*")) if file.is_symlink()] if folder else []
        sizes = {blob: blob.stat().st_size for file in files if (blob := blobs / file.readlink().name).exists()}
        done = 0
        for blob, size in sizes.items():
            if not is_named(blob, blob.name, within(progress, done, sum(sizes.values()))):
                blob.unlink()
            done += size
        return [file.name for file in files if not file.exists()]


def within(progress: Progress | None, begin: int, in_all: int) -> Report:
    """Reports of one file's bytes as progress in all files', of which `begin` bytes lie before it."""

    def report(count: int) -> None:
        if progress:
            progress(min(begin + count, in_all), in_all)

    return report


def check_room(what: object, *needs: tuple[Path, int]) -> None:
    """Raises DiskFull where a place lacks room for the bytes that are to come there; places on one disk share it."""
    with reading(cache_directory()):
        places = [(standing(place), count) for place, count in needs if count]
        for place, _ in places:
            device, free = place.stat().st_dev, shutil.disk_usage(place).free
            needed = SPARE_BYTES + sum(count for other, count in places if other.stat().st_dev == device)
            if needed > free:
                raise DiskFull(f"{what} needs {gigabytes(needed)} and {place} has {gigabytes(free)} free. Free some "
                               "space, or set HF_HOME (or ELM_MLX_CACHE) to another disk.")  # fmt: skip


@contextmanager
def cache_errors(what: str) -> Iterator[None]:
    """Turns the disk's refusals into errors that say what to do about the cache."""
    try:
        with disk_errors(what, "Check its permissions, or set HF_HOME."):
            yield
    except DiskFull as error:
        raise DiskFull(f"{what}: the disk is full. Free some space and try again, which goes on where this stopped, or "
                       "set HF_HOME to another disk.") from error  # fmt: skip
