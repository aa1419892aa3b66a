"""An output directory that appears whole or not at all. After a run was killed, the next one continues its work.

Beside the target NAME lie, while it is written:

    .NAME.partial     the folder that will get the name NAME
    .NAME.journal     what is done in there (`journal`), and the lock that keeps a second run out
    .NAME.replaced    an earlier output, between the rename that moves it away and the one that puts the new one there
    .NAME.calibration the stages of a calibration that are done; it stays until there is an output, whatever ends a run
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from elm_mlx.errors import ElmError, TargetExists


@contextmanager
def write_atomically(target: Path, force: bool) -> Iterator[tuple[Path, BinaryIO]]:
    """Yields (folder to write into, its journal); if the block ends well, one rename names the folder `target`.

    Both hold what a killed run left. An error in the block, or an interrupt, removes them and leaves `target` as it
    was. Raises TargetExists for a target that is a file, that another run is writing, or that is a directory with
    something in it unless `force`.
    """
    refuse_unfit(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder, journal = path_beside(target, "partial"), path_beside(target, "journal")
    with open_locked(journal, target) as file:
        try:
            put_back(target)
            refuse_existing(target, force)
            if folder.is_symlink():  # not ours; what the link leads to is left alone
                folder.unlink()
            folder.mkdir(exist_ok=True)
            yield folder, file
            refuse_unfit(target)
            refuse_existing(target, force)
            sync_folder(folder)
            put_in_place(target, folder)
            shutil.rmtree(path_beside(target, "calibration"), ignore_errors=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            journal.unlink(missing_ok=True)


def path_beside(target: Path, kind: str) -> Path:
    """The path beside the target of what a run keeps there: `kind` is "partial", "journal", "replaced" or
    "calibration"."""
    return target.with_name(f".{target.name}.{kind}")


def paths_replaced(target: Path) -> list[Path]:
    """Every path that a run may replace or remove."""
    return [target, *(path_beside(target, kind) for kind in ("partial", "journal", "replaced", "calibration"))]


@contextmanager
def open_locked(journal: Path, target: Path) -> Iterator[BinaryIO]:
    """Opens the journal to read and append, and locks it until the block ends; the system unlocks it if this run dies.

    Raises TargetExists where another run has the lock.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(journal, flags, 0o666), "a+b") as file:
        if not try_lock(file):
            raise TargetExists(f"Another run is writing {target}.", "Wait until it ends, or name another {output}.")
        yield file


def try_lock(file: BinaryIO) -> bool:
    """Tries to lock the file, and returns whether it is ours: not if another run has it, or has just removed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0


def wait_for_other_run(target: Path) -> None:
    """Waits until no run is writing `target`."""
    with suppress(FileNotFoundError), path_beside(target, "journal").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def unfinished(folder: Path) -> list[Path]:
    """The targets in a folder that are not finished: their run was killed, or is still at work."""
    return sorted(file.with_name(file.name[1 : -len(".journal")]) for file in folder.glob(".*.journal"))


def discard(target: Path) -> None:
    """Removes what a killed run left of a target. Raises TargetExists while a run is writing it."""
    with open_locked(path_beside(target, "journal"), target):
        put_back(target)
        for kind in ("partial", "calibration"):
            shutil.rmtree(path_beside(target, kind), ignore_errors=True)
        path_beside(target, "journal").unlink()


def refuse_unfit(target: Path) -> None:
    """Refuses a target that exists and is not a directory that can be renamed. Raises TargetExists."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise TargetExists(f"{target} is a file or a link, not a directory.", "Name another {output}.")
    if target.is_mount():
        raise TargetExists(f"{target} is a mount point, which cannot be replaced whole. Name a folder inside it.")


def refuse_existing(target: Path, force: bool) -> None:
    """Refuses a directory that is not empty, unless `force` and a model is in it. Raises TargetExists."""
    if target.exists() and any(target.iterdir()):
        if not force:
            raise TargetExists(
                f"{target} exists and is not empty.", "Give {force=True} to replace it, or another {output}."
            )
        if not (target / "config.json").is_file():
            raise TargetExists(
                f"{target} holds no model, so", "{force=True} does not replace it. Name another {output}."
            )


def put_in_place(target: Path, folder: Path) -> None:
    """Renames `folder` to `target`. An earlier output is moved aside first, and put back if that fails."""
    try:
        if target.exists():
            target.rename(path_beside(target, "replaced"))
        folder.rename(target)
    finally:
        put_back(target)


def sync_folder(folder: Path) -> None:
    """Waits until a folder and the files in it are on the disk: otherwise a power cut could leave a name without its
    content."""
    for path in folder.rglob("*"):
        sync(path)
    with suppress(OSError):  # not every file system can do this for a folder
        sync(folder)


def sync(path: Path) -> None:
    """Waits until what was written to a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_back(target: Path) -> None:
    """Renames an earlier output back where no new one took its place, and deletes it where a new one did. Raises
    ElmError where it cannot be deleted."""
    aside = path_beside(target, "replaced")
    if (target / "config.json").is_file():
        remove_replaced(aside, target)
    elif aside.exists() and not target.exists():
        aside.rename(target)


def remove_replaced(aside: Path, target: Path) -> None:
    """Deletes an earlier output, once the name of the new one is on the disk. Raises ElmError where that fails."""
    if not os.path.lexists(aside):
        return
    with suppress(OSError):
        sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)
    if os.path.lexists(aside):
        raise ElmError(f"{target} is whole, but {aside}, which it replaces, cannot be removed. Do that yourself.")
