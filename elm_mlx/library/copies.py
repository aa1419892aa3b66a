"""The models that elm-mlx keeps for itself: one directory for each commit and variant, under one root.

    ROOT/models/apple--OpenELM-450M/4bit-COMMIT/          converted
    ROOT/models/someone--Llama-4bit/published-COMMIT/     links into the hub's cache beside a compact tokenizer.json

The root is ELM_MLX_CACHE, else the platform's place for caches. Nothing outside the root is ever written or removed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from elm_mlx.errors import DiskFull, ElmError, NotFound
from elm_mlx.files import disk_errors, reading
from elm_mlx.library.names import Known, Repository
from elm_mlx.store.layout import is_complete

PUBLISHED = "published"
ELSEWHERE = "Check its permissions, or set ELM_MLX_CACHE to a folder of yours."
MORE_ROOM = "Free some space, or set ELM_MLX_CACHE to a folder on another disk."
FOLDER = re.compile(r"([\w.-]+?)--([\w.-]+)", re.ASCII)  # of a repository's copies: owner--name


@dataclass(frozen=True)
class Copy:
    """A model that elm-mlx keeps: its directory, and the repository, variant and commit that it was made from."""

    path: Path
    repository: str
    variant: str
    commit: str


def root() -> Path:
    """The directory of all that elm-mlx keeps: ELM_MLX_CACHE, else the platform's place for caches."""
    if named := os.environ.get("ELM_MLX_CACHE"):
        return Path(os.path.expanduser(named)).absolute()  # noqa: PTH111, which raises for an unknown user
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "elm-mlx"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "elm-mlx"


def place(repository: str, commit: str, variant: str) -> Path:
    """The directory where the copy of a commit in a variant belongs, whether the copy exists or not."""
    return root() / "models" / repository.replace("/", "--") / f"{variant}-{commit}"


def check_writable() -> None:
    """Raises ElmError where the root cannot be written, so that no model could be kept."""
    place = root()
    while not place.exists():
        place = place.parent
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ElmError(f"{root()}, where converted models are kept, cannot be written.", ELSEWHERE)


@contextmanager
def copy_errors() -> Iterator[None]:
    """Puts, in an error of what writes a copy, what to do about elm-mlx's own place for that of another {output}."""
    try:
        yield
    except ElmError as error:
        if "{output}" not in error.advice:
            raise
        raise type(error)(error.message, MORE_ROOM if isinstance(error, DiskFull) else ELSEWHERE) from error


def all_copies() -> list[Copy]:
    """Every copy that elm-mlx keeps, the newest first, damaged ones included."""
    with reading(root()):
        found = [path for path in (root() / "models").glob("*/*") if path.is_dir()]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [copy for path in found if (copy := copy_at(path))]


def copy_at(path: Path) -> Copy | None:
    """The copy in a directory, according to the directory's name and its parent's; None for anything else, such as an
    unfinished copy, a link, or a folder that is no repository's and so none of elm-mlx's."""
    variant, _, commit = path.name.partition("-")
    repository = repository_in(path.parent)
    if path.name.startswith(".") or not (repository and commit) or path.is_symlink() or path.parent.is_symlink():
        return None
    return Copy(path, repository, variant, commit)


def repository_in(folder: Path) -> str | None:
    """The repository whose copies are kept in a folder, according to its name; None for any other folder."""
    named = FOLDER.fullmatch(folder.name)
    return f"{named[1]}/{named[2]}" if named else None


def repositories_of(model: Known | Repository | Path) -> list[str]:
    """The repositories that a name stands for; none for a directory."""
    if isinstance(model, Path):
        return []
    named = [model.original, model.ready] if isinstance(model, Known) else [model.name]
    return [name for name in named if name]


def folders_of(model: Known | Repository | Path) -> list[Path]:
    """The existing folders with elm-mlx's copies of a model, one for each repository; none for a user's directory."""
    lower = {name.replace("/", "--").lower() for name in repositories_of(model)}
    with reading(root()):
        return [path for path in (root() / "models").glob("*") if path.name.lower() in lower and not path.is_symlink()]


def copies_of(model: Known | Repository | Path) -> list[Copy]:
    """elm-mlx's copies of a model in every variant, and of every commit unless the name has one as its revision."""
    revision = model.revision if isinstance(model, Repository) else "main"
    folders = folders_of(model)
    return [copy for copy in all_copies() if copy.path.parent in folders and revision in ("main", copy.commit)]


def find_copy(repository: str, variant: str, commit: str | None = None) -> Path | None:
    """The directory of the newest complete copy of a repository in a variant, of `commit` if that is given; or None."""
    for copy in all_copies():
        is_it = (copy.repository.lower(), copy.variant) == (repository.lower(), variant)
        if is_it and commit in (None, copy.commit) and is_complete(copy.path):
            return copy.path
    return None


def link_directory(target: Path, source: Path, replaced: Mapping[str, bytes]) -> Path:
    """Makes `target` a directory of links to the files of `source`, in which the files named in `replaced` are written
    with that content instead. A complete `target` stays as it is. Raises DiskFull, ElmError."""
    if target.is_dir() and is_complete(target):
        return target
    with disk_errors(f"{target} cannot be made", "Check its permissions, or set ELM_MLX_CACHE.", "set ELM_MLX_CACHE"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=target.parent) as scratch:
            folder = Path(scratch, target.name)
            folder.mkdir()
            for file in source.rglob("*"):
                if file.is_file() and (name := file.relative_to(source).as_posix()) not in replaced:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).symlink_to(file.resolve())
            for name, content in replaced.items():
                (folder / name).write_bytes(content)
            if target.is_dir() and not is_complete(target):  # the hub's cache lost files that it links to
                shutil.rmtree(target)
            if not target.is_dir():  # no other process made it meanwhile
                folder.rename(target)
    return target


def remove_copy(path: Path) -> int:
    """Deletes a copy, and its folder if no other copy is in it; returns the bytes that it took. Follows no link.

    The copy is renamed first, so that an interrupted deletion leaves nothing that looks like a model. Raises NotFound
    for a path that is no copy.
    """
    if not path.is_dir() or path.is_symlink() or root() not in path.parents:
        raise NotFound(f"{path} is not one of the models that elm-mlx keeps, so nothing was removed. `elm-mlx list` "
                       "shows those.")  # fmt: skip
    with disk_errors(f"Removing {path}", "Check its permissions.", instead=""):
        freed = sum(file.lstat().st_size for file in path.rglob("*"))
        doomed = path.rename(path.with_name(f".{path.name}.removed-{os.getpid()}"))
        shutil.rmtree(doomed)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    return freed
