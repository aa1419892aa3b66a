"""The models that elm-mlx has converted for itself: one directory a commit and variant, under one root.

    ROOT/models/apple--OpenELM-450M/4bit-5a2d8c1f9e01/

The root is ELM_MLX_CACHE, else the platform's place for caches. Nothing outside it is ever written or removed.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from elm_mlx.errors import NotFound
from elm_mlx.store.files import disk_errors, reading


@dataclass(frozen=True)
class Copy:
    """A converted model of ours: where it lies, and what it was made from."""

    path: Path
    repository: str
    variant: str
    commit: str


def root() -> Path:
    """Where our own state lies."""
    if named := os.environ.get("ELM_MLX_CACHE"):
        return Path(named).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "elm-mlx"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "elm-mlx"


def place(repository: str, commit: str, variant: str) -> Path:
    """Where the conversion of a commit belongs."""
    return root() / "models" / repository.replace("/", "--") / f"{variant}-{commit[:12]}"


def copies() -> list[Copy]:
    """Every converted model, the newest first."""
    with reading(root()):
        found = [path.parent for path in (root() / "models").glob("*/*/config.json")]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [copy for path in found if (copy := describe(path))]


def describe(path: Path) -> Copy | None:
    """What the names say; None for what is no copy of ours, as an unfinished one is not."""
    variant, _, commit = path.name.partition("-")
    if path.name.startswith(".") or not commit or path.is_symlink() or path.parent.is_symlink():
        return None
    return Copy(path, path.parent.name.replace("--", "/", 1), variant, commit)


def find(repository: str, variant: str, commit: str | None = None) -> Path | None:
    """The newest copy of a repository in a variant; of one commit if that is named."""
    for copy in copies():
        is_it = (copy.repository.lower(), copy.variant) == (repository.lower(), variant)
        if is_it and (commit is None or copy.commit == commit[:12]):
            return copy.path
    return None


def remove(copy: Copy) -> int:
    """Deletes a copy and its folder if that was the last in it; the bytes that it took. Follows no link."""
    with disk_errors(f"Removing {copy.path}"):
        if not (copy.path.is_dir() and root() in copy.path.parents) or copy.path.is_symlink():
            raise NotFound(f"{copy.path} is no converted model of elm-mlx; nothing was removed.")
        freed = sum(file.lstat().st_size for file in copy.path.rglob("*"))
        shutil.rmtree(copy.path)
        if not any(copy.path.parent.iterdir()):
            copy.path.parent.rmdir()
    return freed
