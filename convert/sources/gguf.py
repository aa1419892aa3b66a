"""GGUF, llama.cpp's format: one file, or a numbered series of them, holds weights, configuration and tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elm_mlx.convert.gguf.header import Header, StoredTensor, read_header
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound
from elm_mlx.files import reading
from elm_mlx.store.weight_files import NUMBERED, some

SUFFIX = ".gguf"
MAX_PARTS = 1_000
PROJECTOR = re.compile(r"mmproj", re.IGNORECASE)  # what turns pictures into a model's input lies beside it
NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"


def is_gguf(name: str) -> bool:
    """Whether a file's name says that it is a GGUF file."""
    return name.lower().endswith(SUFFIX)


def files(where: Path) -> list[str]:
    """The names of the files of one model: those of the series that the file `where` belongs to, or of the only model
    in the directory `where`, none where it has none.

    Raises InvalidRequest for a directory with several models, NotFound for a part that is missing.
    """
    if not where.is_dir():
        return series(where.parent, where.name)
    with reading(where):
        names = sorted(file.name for file in where.iterdir() if is_gguf(file.name) and file.is_file())
    models = {members[0]: members for name in names if not PROJECTOR.search(name)
              for members in [series_of(name)]}  # fmt: skip
    if len(models) > 1:
        raise InvalidRequest(f"{where} holds {len(models)} models: {some([*models])}. Name one of these files.")
    return series(where, next(iter(models))) if models else []


def series_of(name: str) -> list[str]:
    """The names of all files of a numbered series that a file belongs to; of any other file its own."""
    numbered = NUMBERED.fullmatch(name)
    count = int(numbered[2]) if numbered else 1
    if not numbered or not 1 <= count <= MAX_PARTS:
        return [name]
    return [f"{numbered[1]}-{number:05}-of-{numbered[2]}{numbered[3]}" for number in range(1, count + 1)]


def series(directory: Path, name: str) -> list[str]:
    """The names of all files of the series of a file. Raises NotFound where one is missing."""
    names = series_of(name)
    with reading(directory):
        absent = [each for each in names if not (directory / each).is_file()]
    if absent:
        more = f" ({len(absent)} such files are missing)" if len(absent) > 1 else ""
        raise NotFound(f"There is no {absent[0]} in {directory}, a part of the model{more}. Fetch it.")
    return names


def model_name(name: str) -> str:
    """What a model is called by the name of its file: without the suffix, and the number of a part."""
    numbered = NUMBERED.fullmatch(name)
    return numbered[1] if numbered else name[: -len(SUFFIX)]


def read_series(directory: Path, names: Sequence[str]) -> Header:
    """The header of a model that lies in these files: the metadata of the first, the tensors of all. Raises as
    `read_header`, and BadCheckpoint for files that are not one series."""
    headers = [read_header(directory / name) for name in names]
    tensors: dict[str, StoredTensor] = {}
    for place, (name, header) in enumerate(zip(names, headers, strict=True)):
        said = header.metadata.get(NUMBER, 0), header.metadata.get(COUNT, 0) or 1
        if said != (place, len(names)):
            raise BadCheckpoint(f"{directory / name} says that it is part {number_of(said[0])} of {said[1]!r:.40}, and "
                                f"is named as part {place + 1} of {len(names)}. Give it the name that it was "
                                "published with.")  # fmt: skip
        if twice := tensors.keys() & header.tensors.keys():
            raise BadCheckpoint(f"{directory / name} has {min(twice)!r:.80}, which another part has, too. Fetch both "
                                "again.")  # fmt: skip
        tensors |= header.tensors
    metadata: dict[str, Any] = headers[0].metadata
    if len(tensors) != metadata.get(TENSORS, len(tensors)):
        raise BadCheckpoint(f"{directory / names[0]} says that the model has {metadata[TENSORS]!r:.40} tensors, and "
                            f"its parts have {len(tensors)}. Fetch them again.")  # fmt: skip
    return Header(metadata, tensors)


def number_of(place: object) -> str:
    """The number of a part for people, who count from 1."""
    return str(place + 1) if isinstance(place, int) else repr(place)[:40]
