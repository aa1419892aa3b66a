"""Where a conversion may read and write: it overwrites nothing that it reads, and reads only the checkpoint's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from elm_mlx.convert.output.target import paths_replaced
from elm_mlx.convert.sources.hugging_face import TORCH_SUFFIXES
from elm_mlx.errors import BadCheckpoint, InvalidRequest, TargetExists
from elm_mlx.files import disk_errors, reading
from elm_mlx.store.snapshot import snapshot_at

WEIGHT_SUFFIXES = (".safetensors", *TORCH_SUFFIXES)


def check_places(target: Path, files: Sequence[Path], *named: Path) -> None:
    """Checks that the target overwrites nothing that is read, and that no file is a link out of its folder: only
    weights, and what the user `named`, may be links to anywhere. Raises InvalidRequest, TargetExists, BadCheckpoint."""
    refuse_unnameable(target)
    for place in (*named, *files):
        refuse_overlap(place, target)
    for file in files:
        # Links to weights may lead anywhere: a file that holds no tensors ends in an error and is not copied.
        if file not in named and file.suffix not in WEIGHT_SUFFIXES:
            refuse_link_out(file)


def refuse_unnameable(target: Path) -> None:
    """Refuses a path that is not UTF-8, which MLX cannot open, and the root: it has no name. Raises InvalidRequest."""
    if not target.name:
        raise InvalidRequest(f"{target} has no name that a new folder could get. Name a folder inside it.")
    try:
        str(target).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{target} is not UTF-8, so MLX could not open it.", "Name another {output}.") from error


def refuse_overlap(place: Path, target: Path) -> None:
    """Refuses a `place` to read that is, or lies in, a path that a run replaces or removes. The operating system
    compares the files, since names are not enough where there are links, or where a and A are one file.
    Raises TargetExists."""
    with reading(place):
        real = place.resolve()
    with disk_errors(f"{target} cannot be written"):
        for taken in paths_replaced(target):
            if any(is_same(taken, one) for one in (real, *real.parents)):
                raise TargetExists(f"{taken} is or holds the source {place}, and would be replaced or removed.",
                                   "Name another {output}.")  # fmt: skip


def is_same(taken: Path, place: Path) -> bool:
    """Whether both are one file; no where `taken` is gone, as another run may remove or rename it at any time."""
    try:
        return taken.samefile(place)
    except FileNotFoundError:
        return False


def refuse_link_out(file: Path) -> None:
    """Refuses a link out of the checkpoint, which would copy a file of the user's into the output. In the hub's cache
    files are links to the blobs of their repository, which may stay. Raises BadCheckpoint."""
    with reading(file):
        snapshot = snapshot_at(file.parent)
        root = snapshot.folder if snapshot else file.parent.resolve()
        if not file.resolve().is_relative_to(root):
            raise BadCheckpoint(f"{file} is a link to {file.resolve()}, which is not in {root}. If it belongs to the "
                                "checkpoint, put the file itself there.")  # fmt: skip
