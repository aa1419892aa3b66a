"""The models that elm-mlx keeps for itself: one directory a commit and variant, under one root.

    ROOT/models/apple--OpenELM-450M/4bit-COMMIT/          converted
    ROOT/models/someone--Llama-4bit/published-COMMIT/     links into the hub's cache, and what was made smaller

The root is ELM_MLX_CACHE, else the platform's place for caches. Nothing outside it is ever written or removed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from elm_mlx.errors import ElmError, NotFound
from elm_mlx.files import disk_errors, reading
from elm_mlx.library.names import Known, Repository
from elm_mlx.store.layout import is_complete

PUBLISHED = "published"


@dataclass(frozen=True)
class Copy:
    """A model of ours: where it lies, and what it was made from."""

    path: Path
    repository: str
    variant: str
    commit: str


def root() -> Path:
    """Where our own state lies."""
    if named := os.environ.get("ELM_MLX_CACHE"):
        return Path(os.path.expanduser(named)).absolute()  # noqa: PTH111, which raises for an unknown user
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "elm-mlx"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "elm-mlx"


def place(repository: str, commit: str, variant: str) -> Path:
    """Where the conversion of a commit belongs."""
    return root() / "models" / repository.replace("/", "--") / f"{variant}-{commit}"


def check_writable() -> None:
    """Raises ElmError where nothing can be kept."""
    place = root()
    while not place.exists():
        place = place.parent
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ElmError(f"{root()}, where converted models are kept, cannot be written. Check its permissions, or set "
                       "ELM_MLX_CACHE to a folder of yours.")  # fmt: skip


def all_copies() -> list[Copy]:
    """Every converted model, the newest first; a damaged one too."""
    with reading(root()):
        found = [path for path in (root() / "models").glob("*/*") if path.is_dir()]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [copy for path in found if (copy := copy_at(path))]


def copy_at(path: Path) -> Copy | None:
    """What the names say; None for what is no copy of ours, as an unfinished one or a link is not."""
    variant, _, commit = path.name.partition("-")
    if path.name.startswith(".") or not commit or path.is_symlink() or path.parent.is_symlink():
        return None
    return Copy(path, path.parent.name.replace("--", "/", 1), variant, commit)


def folders_of(model: Known | Repository | Path) -> list[Path]:
    """Where our copies of what is named lie, if there are any."""
    if isinstance(model, Path):
        return []
    named = [model.original, model.ready] if isinstance(model, Known) else [model.name]
    lower = {name.replace("/", "--").lower() for name in named if name}
    with reading(root()):
        return [path for path in (root() / "models").glob("*") if path.name.lower() in lower and not path.is_symlink()]


def copies_of(model: Known | Repository | Path) -> list[Copy]:
    """Our copies of what is named, in every variant, and of every commit unless one is named."""
    revision = model.revision if isinstance(model, Repository) else "main"
    folders = folders_of(model)
    return [copy for copy in all_copies() if copy.path.parent in folders and revision in ("main", copy.commit)]


def find_copy(repository: str, variant: str, commit: str | None = None) -> Path | None:
    """The newest whole copy of a repository in a variant; of one commit if that is named."""
    for copy in all_copies():
        is_it = (copy.repository.lower(), copy.variant) == (repository.lower(), variant)
        if is_it and commit in (None, copy.commit) and is_complete(copy.path):
            return copy.path
    return None


def link_directory(target: Path, source: Path, replaced: Mapping[str, bytes]) -> Path:
    """Makes `target` a directory of links to the files of `source`, but for those with content of their own; leaves one
    that is whole as it is. Raises DiskFull, ElmError."""
    if target.is_dir() and is_complete(target):
        return target
    with disk_errors(f"{target} cannot be made", "Check its permissions, or set ELM_MLX_CACHE."):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=target.parent) as scratch:
            folder = Path(scratch, target.name)
            folder.mkdir()
            for file in source.iterdir():
                if file.is_file() and file.name not in replaced:
                    (folder / file.name).symlink_to(file.resolve())
            for name, content in replaced.items():
                (folder / name).write_bytes(content)
            if target.is_dir() and not is_complete(target):  # the cache lost what it links to
                shutil.rmtree(target)
            if not target.is_dir():  # another process was not first
                folder.rename(target)
    return target


def remove_copy(path: Path) -> int:
    """Deletes a copy, and its folder if that was the last in it; the bytes that it took. Follows no link.

    It gives up its name first: whatever stops this leaves nothing that looks like a model.
    """
    if not path.is_dir() or path.is_symlink() or root() not in path.parents:
        raise NotFound(f"{path} is no converted model of elm-mlx; nothing was removed.")
    with disk_errors(f"Removing {path}", "Check its permissions."):
        freed = sum(file.lstat().st_size for file in path.rglob("*"))
        doomed = path.rename(path.with_name(f".{path.name}.removed-{os.getpid()}"))
        shutil.rmtree(doomed)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    return freed
