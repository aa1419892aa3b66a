"""The files of one rank: what MLX reads when the ranks connect, and nobody after that."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

# MLX's variables that say who a rank is; some name such files.
WHO = ("MLX_RANK", "MLX_HOSTFILE", "MLX_IBV_DEVICES", "MLX_JACCL_COORDINATOR", "MLX_JACCL_RING")
folders: list[Path] = []  # that this process made, while they are there


def forget_earlier_run() -> None:
    """Takes what an earlier run has left out of the environment: a rank of another backend would follow it."""
    for variable in WHO:
        os.environ.pop(variable, None)


def write_files(files: Mapping[str, str]) -> None:
    """Writes files of this rank, and puts the path of each into a variable of the environment: {variable: content}."""
    folder = Path(tempfile.mkdtemp(prefix="elm-mlx-rank-"))
    folders.append(folder)
    for variable, content in files.items():
        path = folder / f"{variable}.json"
        path.write_text(content, encoding="utf-8")
        os.environ[variable] = str(path)


def remove_files() -> None:
    """Removes this rank's files, if there are some left."""
    while folders:
        shutil.rmtree(folders.pop(), ignore_errors=True)
