"""The files of one rank: what MLX reads when the ranks connect, and nobody after that."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

FOLDER = "ELM_MLX_RANK_FILES"  # of this process's rank, while there are some


def write_files(files: Mapping[str, str]) -> None:
    """Writes files of this rank, and puts the path of each into a variable of the environment: {variable: content}."""
    folder = Path(tempfile.mkdtemp(prefix="elm-mlx-rank-"))
    os.environ[FOLDER] = str(folder)
    for variable, content in files.items():
        path = folder / f"{variable}.json"
        path.write_text(content, encoding="utf-8")
        os.environ[variable] = str(path)


def remove_files() -> None:
    """Removes this rank's files, if there are some left."""
    if folder := os.environ.pop(FOLDER, None):
        shutil.rmtree(folder, ignore_errors=True)
