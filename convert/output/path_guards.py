"""Where a conversion may read and write: nothing that is read is lost, and nothing is read that is no checkpoint's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from elm_mlx.convert.output.target import paths_replaced
from elm_mlx.convert.sources.hugging_face import TORCH_SUFFIXES
from elm_mlx.errors import BadCheckpoint, InvalidRequest, TargetExists
from elm_mlx.files import disk_errors, reading
from elm_mlx.store.snapshot import snapshot_at

WEIGHTS = (".safetensors", *TORCH_SUFFIXES)


def check_places(target: Path, files: Sequence[Path], *named: Path) -> None:
    """Holds the target against all that is read, and the `files` against their folders: only what the user `named`, and
    weights, may be links to anywhere. Raises InvalidRequest, TargetExists, BadCheckpoint."""
    refuse_unnameable(target)
    for place in (*named, *files):
        refuse_overlap(place, target)
    for file in files:
        if file not in named and file.suffix not in WEIGHTS:  # a link to anything but weights has no tensors
            refuse_link_out(file)


def refuse_unnameable(target: Path) -> None:
    """MLX opens no file whose path is not UTF-8, and the root has no name for a folder to get."""
    if not target.name:
        raise InvalidRequest(f"{target} has no name that a new folder could get. Name a folder inside it.")
    try:
        str(target).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{target} is not UTF-8, so MLX could not open it.", "Name another {output}.") from error


def refuse_overlap(place: Path, target: Path) -> None:
    """What is read must not be, nor lie in, what is replaced or removed on the way to the target. The system compares
    the files: a name says too little where there are links, or where a and A are one."""
    with reading(place):
        real = place.resolve()
    with disk_errors(f"{target} cannot be written"):
        for taken in paths_replaced(target):
            if any(is_same(taken, one) for one in (real, *real.parents)):
                raise TargetExists(f"{taken} is or holds the source {place}, and would be replaced or removed.",
                                   "Name another {output}.")  # fmt: skip


def is_same(taken: Path, place: Path) -> bool:
    """Whether both are one file; another run may remove or rename what is `taken` at any time."""
    try:
        return taken.samefile(place)
    except FileNotFoundError:
        return False


def refuse_link_out(file: Path) -> None:
    """A checkpoint's files are its own: a link that leads elsewhere would carry a file of the user's into the output.
    In the hub's cache they are links to the blobs of the same repository."""
    with reading(file):
        snapshot = snapshot_at(file.parent)
        root = snapshot.folder if snapshot else file.parent.resolve()
        if not file.resolve().is_relative_to(root):
            raise BadCheckpoint(f"{file} is a link to {file.resolve()}, which is not in {root}. If it belongs to the "
                                "checkpoint, put the file itself there.")  # fmt: skip
