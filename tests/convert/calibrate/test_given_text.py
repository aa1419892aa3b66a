"""The text of a calibration: whatever a file or a directory holds, it gives windows of ids or a sentence."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints

from elm_mlx.config import ModelConfig, config_from_dict
from elm_mlx.convert.calibrate import given_text
from elm_mlx.convert.calibrate.given_text import Sample, read_sample
from elm_mlx.convert.tokenizer import prepare_tokenizer
from elm_mlx.convert.verify import held_out
from elm_mlx.errors import ElmError, InvalidRequest, NotFound
from elm_mlx.text.tokenizer import Tokenizer

CONFIG = config_from_dict(checkpoints.CONFIGS["openelm"])
TEXT = held_out().read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tokenizer(openelm: Path) -> Tokenizer:
    return prepare_tokenizer(openelm, None, CONFIG).tokenizer


def read(place: Path | None, tokenizer: Tokenizer, tokens: int = 1024, config: ModelConfig = CONFIG) -> Sample:
    return read_sample(place, tokenizer, config, tokens)


def written(path: Path, content: str | bytes = TEXT) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_file_gives_windows_and_says_what_it_was(tmp_path: Path, tokenizer: Tokenizer) -> None:
    sample = read(written(tmp_path / "a.txt"), tokenizer)
    assert [len(window) for window in sample.windows] == [512, 512]
    assert all(window[0] == tokenizer.bos_token_id for window in sample.windows)
    data = TEXT.encode()
    assert sample.record() == {
        "name": "a.txt",
        "files": 1,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert read(tmp_path / "a.txt", tokenizer) == sample


def test_windows_are_no_longer_than_the_context(tmp_path: Path, tokenizer: Tokenizer) -> None:
    short = config_from_dict(checkpoints.CONFIGS["openelm"] | {"max_context_length": 100})
    sample = read(written(tmp_path / "a.txt"), tokenizer, config=short)
    assert {len(window) for window in sample.windows} == {100}
    assert len(sample.windows) == 10
    none = config_from_dict(checkpoints.CONFIGS["openelm"] | {"max_context_length": 1})
    with pytest.raises(InvalidRequest, match="a context of 1 tokens has no room"):
        read(tmp_path / "a.txt", tokenizer, config=none)


def test_a_text_that_is_too_short_gives_all_that_it_has_and_says_so(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = written(tmp_path / "a.txt")
    every = read(text, tokenizer, 2**20)
    assert every.is_whole
    assert 1024 < every.tokens < 2**20
    assert not read(text, tokenizer, every.tokens).is_whole


def test_a_byte_order_mark_and_windows_line_ends_change_no_id(tmp_path: Path, tokenizer: Tokenizer) -> None:
    plain = read(written(tmp_path / "a", TEXT), tokenizer)
    marked = read(written(tmp_path / "b", "\ufeff" + TEXT.replace("\n", "\r\n")), tokenizer)
    assert marked.windows == plain.windows
    assert marked.sha256 != plain.sha256


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has no text in it"),
        (b"x", r"has only \d tokens, and a calibration reads windows of 512"),
        (b" \n\t\r\n" * 5000, "has no text in it"),
        ("\ufeff", "has no text in it"),
        (b"\xff\xfe" + TEXT.encode("utf-16-le"), "is not UTF-8 text"),
        (TEXT.encode("utf-16-le"), "holds NUL, as no text does"),
        (TEXT.encode() + b"\xc3", "is not UTF-8 text"),  # cut amid a character
        (b"\xed\xa0\x80" + TEXT.encode(), "is not UTF-8 text"),  # half a surrogate pair
        (TEXT + "\0", "holds NUL, as no text does"),
        (bytes(100_000), "holds NUL, as no text does"),
    ],
)
def test_what_is_no_text_is_refused_in_a_sentence(
    tmp_path: Path, tokenizer: Tokenizer, content: str | bytes, complaint: str
) -> None:
    file = written(tmp_path / "a.txt", content)
    with pytest.raises(InvalidRequest, match=complaint) as refused:
        read(file, tokenizer)
    assert str(file) in refused.value.message


def test_control_tokens_that_are_written_out_are_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    controls = "<s></s><unk><|begin_of_text|><|eot_id|>[INST]<pad>"
    sample = read(written(tmp_path / "a", controls * 2000), tokenizer)
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert not any(special.intersection(window[1:]) for window in sample.windows)


@pytest.mark.parametrize("megabytes", [1, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("unit", ["a", "word ", "\U0001f600", "é", "</s>"])
def test_one_endless_line_is_read(tmp_path: Path, tokenizer: Tokenizer, unit: str, megabytes: int) -> None:
    file = written(tmp_path / "a", unit * (megabytes * 2**20 // len(unit.encode())))
    assert len(read(file, tokenizer, 65536).windows) == 128


def test_of_a_huge_file_the_beginning_is_read(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_text, "MOST_CHARACTERS", 20_000)
    file = written(tmp_path / "a", TEXT)
    sample = read(file, tokenizer)
    assert sample.nbytes == len(TEXT[:20_000].encode())
    assert sample.sha256 == hashlib.sha256(file.read_bytes()[: sample.nbytes]).hexdigest()


def test_an_id_that_the_model_does_not_have_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    small = config_from_dict(checkpoints.CONFIGS["openelm"] | {"vocab_size": 300})
    with pytest.raises(ElmError, match=r"\d+ is not a token id of this model; its ids go from 0 to 299"):
        read(written(tmp_path / "a"), tokenizer, config=small)


def test_a_directory_is_its_files_in_the_order_of_their_names(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder, half = tmp_path / "texts", len(TEXT) // 2
    folder.mkdir()
    for name, text in (("b.txt", TEXT[half:]), ("a.md", TEXT[:half]), (".hidden", "\0"), ("empty", "")):
        written(folder / name, text)
    sample = read(folder, tokenizer)
    assert (sample.name, sample.files) == ("texts", 3)
    assert sample.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    one = written(tmp_path / "one", TEXT[:half])
    assert sample.windows != read(one, tokenizer).windows  # both files count


def test_what_is_no_file_in_a_directory_does_not_count(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    written(folder / "below" / "other.txt", "\0")
    written(tmp_path / "linked", TEXT)
    (folder / "link").symlink_to(tmp_path / "linked")
    (folder / "nowhere").symlink_to(tmp_path / "nothing")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "up").symlink_to(tmp_path)
    (folder / "zero").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    here = os.open(folder, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{here}/socket" if Path("/proc/self/fd").exists() else str(folder / "socket"))
    os.close(here)
    assert read(folder, tokenizer).windows == read(tmp_path / "linked", tokenizer).windows
    (folder / "link").unlink()
    with pytest.raises(InvalidRequest, match="holds no file to read as text"):
        read(folder, tokenizer)


def test_a_file_of_a_directory_that_is_no_text_or_may_not_be_read_is_named(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "a.txt", TEXT)
    picture = written(tmp_path / "b.png", b"\x89PNG\r\n")
    with pytest.raises(InvalidRequest, match=r"b\.png is not UTF-8 text.*move it away"):
        read(tmp_path, tokenizer)
    right = Path.open

    def closed(self: Path, *how: Any, **more: Any) -> Any:
        if self == picture:
            raise PermissionError(13, "Permission denied")
        return right(self, *how, **more)

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(ElmError, match=r"b\.png cannot be read: Permission denied"):
        read(tmp_path, tokenizer)


@pytest.mark.parametrize(("count", "most"), [(50, 20), pytest.param(100_000, 1000, marks=pytest.mark.slow)])
def test_of_many_files_some_are_read_evenly(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, count: int, most: int
) -> None:
    monkeypatch.setattr(given_text, "MOST_FILES", most)
    for number in range(count):
        written(tmp_path / f"{number:06d}", f"This is story {number} of many. " * 20)
    sample = read(tmp_path, tokenizer)
    assert (sample.files, len(sample.windows)) == (most, 2)
    said = [int(one) for one in re.findall(r"story (\d+)", "".join(map(tokenizer.decode, sample.windows)))]
    assert max(said) > count / 2


def test_a_place_that_is_none_is_refused(tmp_path: Path, tokenizer: Tokenizer, pipe: Path) -> None:
    with pytest.raises(NotFound, match=r"There is no file or directory .*nowhere\. calibrate takes a UTF-8 text file"):
        read(tmp_path / "nowhere", tokenizer)
    for place in (pipe, Path("/dev/zero")):
        with pytest.raises(InvalidRequest, match="is a pipe or a device"):
            read(place, tokenizer)
    with pytest.raises(ElmError, match="cannot be read: File name too long"):
        read(tmp_path / ("x" * 300), tokenizer)


def test_without_a_place_it_is_the_text_that_is_shipped(tokenizer: Tokenizer) -> None:
    sample = read(None, tokenizer, 65_536)
    assert (sample.name, len(sample.windows), sample.tokens) == ("shipped with elm-mlx", 128, 65_536)
