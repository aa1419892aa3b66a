"""The questions of a task of one's own: files of JSON lines beside the task's, read within bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.files import reading
from elm_mlx.jobs.json_line import parse_line, read_line

MOST_QUESTIONS = 1_000_000  # of a file
MOST_FILES = 100  # of a task, each counted as often as it is named: a short list must not fill the memory
BUILDER = "json"  # lm-eval's dataset_path of local files; of the others some load pickles or fetch


class Rows(list[dict[str, Any]]):
    """Questions, as lm-eval wants them: a list, and the names of their columns as `features`."""

    @property
    def features(self) -> dict[str, None]:
        """The columns that any question has."""
        return dict.fromkeys(name for row in self for name in row)


def read_splits(raw: Mapping[str, Any], task: Path) -> dict[str, Rows]:
    """The questions that a task's dataset_path and dataset_kwargs name, by split; "train" where none is named. Raises
    InvalidRequest for anything but files in the task's own folder, and for lines that are no objects; NotFound."""
    if raw.get("dataset_path") != BUILDER or raw.get("dataset_name") is not None:
        raise InvalidRequest(f"dataset_path is {raw.get('dataset_path')!r:.80}; it must be json, without a "
                             "dataset_name: such a task has its questions in JSON lines beside it.")  # fmt: skip
    settings = raw.get("dataset_kwargs")
    if not isinstance(settings, dict) or set(settings) != {"data_files"}:
        raise InvalidRequest("dataset_kwargs must hold data_files alone.")
    files = settings["data_files"]
    by_split = files if isinstance(files, dict) and files else {"train": files}
    if (count := sum(len(names) if isinstance(names, list) else 1 for names in by_split.values())) > MOST_FILES:
        raise InvalidRequest(f"data_files names {count:,} files; it may name {MOST_FILES}. Join some.")
    return {str(split): read_rows(names, task) for split, names in by_split.items()}


def read_rows(names: Any, task: Path) -> Rows:
    """The questions in one file, or in several. Raises InvalidRequest, NotFound."""
    listed = names if isinstance(names, list) else [names]
    if not listed or not all(isinstance(name, str) for name in listed):
        raise InvalidRequest(f"data_files is {names!r:.80}; it must name a file, or a list of files.")
    rows = Rows(row for name in listed for row in read_lines(beside(name, task)))
    if not rows:
        raise InvalidRequest(f"{', '.join(listed):.200} holds no questions. Put a line for each into it.")
    return rows


def beside(name: str, task: Path) -> Path:
    """The file of that name in the task's folder, or in a folder there. Raises InvalidRequest for any other place."""
    folder = task.resolve().parent
    try:
        place = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"data_files names {name!r:.80}, which cannot be a file's name.") from error
    if "://" in name or folder not in place.parents:
        raise InvalidRequest(f"data_files names {name!r:.80}, which is not in the task's own folder. Put it there.")
    return place


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file, a line each. Raises NotFound, InvalidRequest."""
    if not path.is_file():
        raise NotFound(f"There is no file {path}, which a task names. Put it there.")
    with reading(path), path.open("rb") as file:
        for number in range(1, MOST_QUESTIONS + 2):
            if (line := read_line(file)) == b"":
                return
            if line is None or line.strip():
                yield parse_line(line, f"Line {number} of {path.name}")
    raise InvalidRequest(f"{path.name} holds over {MOST_QUESTIONS:,} lines. Make two tasks of it.")
