"""The directory of a training: whether one may begin or go on there, and that one at a time does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elm_mlx.errors import InvalidRequest, NotFound, TargetExists
from elm_mlx.files import disk_errors, drop_partials
from elm_mlx.jobs.results import try_lock
from elm_mlx.store.adapters.mlx_layout import WEIGHTS_FILE
from elm_mlx.train.checkpoint import CHECKPOINT
from elm_mlx.train.full import CONFIG, WEIGHTS
from elm_mlx.train.history import LOSSES
from elm_mlx.train.reference import REFERENCE

WRITTEN = WEIGHTS_FILE, CHECKPOINT, LOSSES, REFERENCE, WEIGHTS, CONFIG


def check_output(output: Path, resume: bool) -> None:
    """Raises TargetExists where another training is kept in `output`, or a model, unless it is to go on; NotFound where
    it is to go on and nothing of it is there."""
    there = [name for name in WRITTEN if (output / name).exists()]
    if there and not resume:
        raise TargetExists(f"{output} has {there[0]} already.", "Name another {output}, or go on with {resume=True}.")
    if resume and not {CHECKPOINT, LOSSES} & set(there):
        raise NotFound(f"There is no {CHECKPOINT} in {output} to go on from.", "Leave {resume} out.")


@contextmanager
def lock_output(output: Path) -> Iterator[None]:
    """Makes a directory where there is none, and keeps other trainings out of it until the end. What one that was
    killed had written of a file is removed. Raises InvalidRequest where another one is there now, DiskFull,
    ElmError."""
    with disk_errors(f"{output} cannot be made"):
        output.mkdir(parents=True, exist_ok=True)
        directory = os.open(output, os.O_RDONLY)
    try:
        if not try_lock(directory):
            raise InvalidRequest(f"Another training writes to {output} now.", "Let it end, or name another {output}.")
        with disk_errors(f"{output} cannot be written"):
            drop_partials(output)
        yield
    finally:
        os.close(directory)  # and with it the lock
