"""Texts that a person names: a file, or a directory of files."""

from __future__ import annotations

from pathlib import Path

from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.files import reading


def text_files(place: Path, argument: str) -> list[Path]:
    """The files of a text: the file itself, or those in a directory in the order of their names. Hidden files, folders,
    pipes and the like in it do not count; links to files do. `argument` is what errors call the one that names the
    place. Raises NotFound, InvalidRequest."""
    with reading(place):
        if place.is_file():
            return [place]
        if not place.exists():
            raise NotFound(f"There is no file or directory {place}.", f"{{{argument}}} takes a UTF-8 text file, or "
                           "a directory of such files.")  # fmt: skip
        if not place.is_dir():
            raise InvalidRequest(f"{place} is a pipe or a device, which cannot be read twice. Put a file there.")
        files = sorted(file for file in place.iterdir() if not file.name.startswith(".") and file.is_file())
    if not files:
        raise InvalidRequest(f"{place} holds no file to read as text. Put text files there; folders in it do not "
                             "count.")  # fmt: skip
    return files


def read_beginning(file: Path, characters: int = -1) -> str:
    """Reads the first characters of a text file as they are, or all of them. Raises InvalidRequest for what is no UTF-8
    text."""
    with reading(file):
        try:
            with file.open(encoding="utf-8", newline="") as content:
                text = content.read(characters)
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{file} is not UTF-8 text. Convert it first, for example with iconv, or move it "
                                 "away.") from error  # fmt: skip
    if "\0" in text:
        raise InvalidRequest(f"{file} holds NUL, as no text does. Give a text file, or move it away.")
    return text
