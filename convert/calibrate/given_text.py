"""The text that a calibration reads: the package's, a file or a directory becomes windows of ids, always the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elm_mlx.config import ModelConfig
from elm_mlx.convert.calibrate import samples
from elm_mlx.convert.calibrate.options import WINDOW
from elm_mlx.errors import InvalidRequest
from elm_mlx.store.text_files import read_beginning, text_files
from elm_mlx.text.tokenizer import Tokenizer

MOST_CHARACTERS = 2**26  # that are read of all files together; a calibration uses a few hundred thousand of them
MOST_FILES = 1000  # of a directory that are read: of more, these are evenly spread in the order of their names
SHIPPED = "shipped with elm-mlx"


@dataclass(frozen=True)
class Sample:
    """What a calibration reads: `windows` of ids, each [L], from a text called `name`. Of its `files` `nbytes` bytes
    from the beginnings were looked at, and `sha256` is their hash. `is_whole`: the text has no more windows."""

    name: str
    files: int
    nbytes: int
    sha256: str
    is_whole: bool
    windows: list[list[int]] = field(repr=False)

    @property
    def tokens(self) -> int:
        """How many ids are in all windows."""
        return sum(map(len, self.windows))

    def record(self) -> dict[str, Any]:
        """What conversion.json says of the text."""
        return {"name": self.name, "files": self.files, "bytes": self.nbytes, "sha256": self.sha256}


def check_text(place: Path) -> None:
    """Checks, before a model is there, that a text can be read. Raises NotFound, InvalidRequest, ElmError."""
    for file in text_files(place, "calibrate")[:1]:
        read_beginning(file, 1)


def read_sample(place: Path | None, tokenizer: Tokenizer, config: ModelConfig, tokens: int) -> Sample:
    """Reads up to `tokens` ids, in windows of 512 or of the model's context where that is shorter. `place` is a UTF-8
    file or a directory of such files; without one it is the text that elm-mlx brings.

    Raises NotFound, and InvalidRequest for a text that is none, that fills no window, or with an id that the model does
    not have.
    """
    texts = samples.shipped() if place is None else read_texts(place)
    length = min(WINDOW, config.context_length)
    plain = [text.removeprefix("\ufeff").replace("\r\n", "\n") for text in texts]
    name = SHIPPED if place is None else os.fsencode(place.resolve().name).decode(errors="replace")
    if not any(text.strip() for text in plain):
        raise InvalidRequest(f"{place or name} has no text in it. Give one of some pages.")
    windows = samples.windows(tokenizer, config.vocab_size, plain, tokens // length, length)
    if len(windows[0]) < length:
        raise InvalidRequest(f"{place or name} has only {len(windows[0])} tokens, and a calibration reads windows of "
                             f"{length}. Give a longer text; 50,000 words are plenty.")  # fmt: skip
    return identify(name, texts, windows, is_whole=len(windows) < tokens // length)


def identify(name: str, texts: Sequence[str], windows: list[list[int]], is_whole: bool) -> Sample:
    """The sample of these windows: counts and hashes the bytes of the texts."""
    digest, nbytes = hashlib.sha256(), 0
    for text in texts:
        data = text.encode()
        digest.update(data)
        nbytes += len(data)
    return Sample(name, len(texts), nbytes, digest.hexdigest(), is_whole, windows)


def read_texts(place: Path) -> list[str]:
    """The beginnings of all files of a text, together at most MOST_CHARACTERS. Raises as `text_files` and
    `read_beginning`."""
    files = text_files(place, "calibrate")
    if (count := len(files)) > MOST_FILES:
        files = [files[number * count // MOST_FILES] for number in range(MOST_FILES)]
    return [read_beginning(file, MOST_CHARACTERS // len(files)) for file in files]
