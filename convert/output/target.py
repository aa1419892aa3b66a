"""An output directory that appears whole or not at all, and that the run after one that was killed goes on with.

Beside the target NAME lie, while it is written:

    .NAME.partial     the folder that will get its name
    .NAME.journal     what is done in there (convert.journal), and the lock that keeps a second run out
    .NAME.replaced    an earlier output, from the one rename to the other
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
def staged(target: Path, force: bool) -> Iterator[tuple[Path, BinaryIO]]:
    """(folder to write into, its journal); one rename gives the folder the name `target` when the block ends well.

    Both hold what a killed run left. Whatever ends the block otherwise, an interrupt too, removes them and leaves
    `target` as it was. Raises TargetExists for a target that is a file, that another run is writing, or that is a
    directory with something in it unless `force`.
    """
    refuse_unfit(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder, journal = beside(target, "partial"), beside(target, "journal")
    with locked(journal, target) as file:
        try:
            put_back(target)
            refuse_existing(target, force)
            if folder.is_symlink():  # not ours; what it leads to is left alone
                folder.unlink()
            folder.mkdir(exist_ok=True)
            yield folder, file
            refuse_unfit(target)
            refuse_existing(target, force)
            settle(folder)
            replace(target, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            journal.unlink(missing_ok=True)


def beside(target: Path, kind: str) -> Path:
    """The path beside the target where a run keeps a thing of this kind."""
    return target.with_name(f".{target.name}.{kind}")


def paths_replaced(target: Path) -> list[Path]:
    """Every path that a run may replace or remove."""
    return [target, *(beside(target, kind) for kind in ("partial", "journal", "replaced"))]


@contextmanager
def locked(journal: Path, target: Path) -> Iterator[BinaryIO]:
    """The journal, open to read and append, against every other run; the system frees it however this one ends."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(journal, flags, 0o666), "a+b") as file:
        if not lock(file):
            raise TargetExists(f"Another run is writing {target}.", "Wait until it ends, or name another {output}.")
        yield file


def lock(file: BinaryIO) -> bool:
    """Whether the file is ours now: no other run has it, nor has one removed it in this moment."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0


def wait_for_other_run(target: Path) -> None:
    """Returns when no run is writing `target`."""
    with suppress(FileNotFoundError), beside(target, "journal").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def unfinished(folder: Path) -> list[Path]:
    """The targets in a folder that killed runs left unfinished, or running ones have not finished."""
    return sorted(file.with_name(file.name[1 : -len(".journal")]) for file in folder.glob(".*.journal"))


def discard(target: Path) -> None:
    """Removes what a killed run left of a target. Raises TargetExists while a run is at it."""
    with locked(beside(target, "journal"), target):
        put_back(target)
        shutil.rmtree(beside(target, "partial"), ignore_errors=True)
        beside(target, "journal").unlink()


def refuse_unfit(target: Path) -> None:
    """A target is a directory that can be renamed, or nothing yet; never a file."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise TargetExists(f"{target} is a file or a link, not a directory.", "Name another {output}.")
    if target.is_mount():
        raise TargetExists(f"{target} is a mount point, which cannot be replaced whole. Name a folder inside it.")


def refuse_existing(target: Path, force: bool) -> None:
    """Nothing of a user's is overwritten unasked."""
    if target.exists() and any(target.iterdir()):
        if not force:
            raise TargetExists(
                f"{target} is there and not empty.", "Give {force=True} to replace it, or another {output}."
            )
        if not (target / "config.json").is_file():
            raise TargetExists(
                f"{target} holds no model, so", "{force=True} does not replace it. Name another {output}."
            )


def replace(target: Path, folder: Path) -> None:
    """Renames `folder` to `target`; an earlier output steps aside first and comes back should that fail."""
    try:
        if target.exists():
            target.rename(beside(target, "replaced"))
        folder.rename(target)
    finally:
        put_back(target)


def settle(folder: Path) -> None:
    """Returns when the disk has a folder and the files in it: a power cut could otherwise leave a name without what it
    names."""
    for path in folder.iterdir():
        sync(path)
    with suppress(OSError):  # not every file system does this for a folder
        sync(folder)


def sync(path: Path) -> None:
    """Returns when the disk has what was written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_back(target: Path) -> None:
    """An earlier output that stepped aside comes back where nothing took its place, and goes where a model did. Raises
    ElmError where the system keeps some of it."""
    aside = beside(target, "replaced")
    if (target / "config.json").is_file():
        remove(aside, target)
    elif aside.exists() and not target.exists():
        aside.rename(target)


def remove(aside: Path, target: Path) -> None:
    """Deletes an earlier output, once the disk has the name of what took its place."""
    if not os.path.lexists(aside):
        return
    with suppress(OSError):
        sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)
    if os.path.lexists(aside):
        raise ElmError(f"{target} is whole, but {aside}, which it replaces, cannot be removed. Do that yourself.")
