"""An output directory that appears whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elm_mlx.errors import TargetExists


@contextmanager
def staged(target: Path, force: bool) -> Iterator[Path]:
    """A sibling folder to write into; one rename gives it the name `target` when the block ends well.

    Whatever ends the block otherwise, an interrupt too, removes the folder and leaves `target` as it was.
    Raises TargetExists for a target that is a file, or a directory with something in it unless `force`.
    """
    refuse_existing(target, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name[:100]}.partial-{secrets.token_hex(4)}")
    folder.mkdir()
    try:
        yield folder
        refuse_existing(target, force)
        replace(target, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_existing(target: Path, force: bool) -> None:
    """Nothing of a user's is overwritten unasked, and never a file."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise TargetExists(f"{target} is a file or a link, not a directory. Name another --output.")
    if target.is_mount():
        raise TargetExists(f"{target} is a mount point, which cannot be replaced whole. Name a folder inside it.")
    if target.exists() and any(target.iterdir()):
        if not force:
            raise TargetExists(f"{target} is there and not empty. Give --force to replace it, or another --output.")
        if not (target / "config.json").is_file():
            raise TargetExists(f"{target} holds no model, so --force does not replace it. Name another --output.")


def replace(target: Path, folder: Path) -> None:
    """Renames `folder` to `target`; an earlier output steps aside first and comes back should that fail."""
    aside = folder.with_name(f"{folder.name}-replaced")
    try:
        if target.exists():
            target.rename(aside)
        folder.rename(target)
    except BaseException:  # an interrupt between the two renames must not lose the earlier output
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
