"""`elm-mlx merge`: what it did on stderr or as JSON, and its refusals with flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.adapters import made_sums, write_sums
from helpers.command_line import run

from elm_mlx.convert import convert


class Made(NamedTuple):
    """A quantized model and an adapter of it."""

    model: Path
    adapter: Path


@pytest.fixture(scope="module")
def made(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("merge")
    adapter = write_sums(folder / "adapter", openelm, made_sums(openelm, ends=("qkv_proj",)))
    return Made(convert(openelm, folder / "model", bits=4, group_size=32).output, adapter)


@pytest.mark.follows("elm-mlx merge")
def test_a_person_is_told_what_was_made_of_what(made: Made, openelm: Path, tmp_path: Path) -> None:
    asked = "--model", made.model, "--adapter", made.adapter, "--tokens", 40
    done = run("merge", *asked, "-o", tmp_path / "one", "--source", openelm)
    assert (done.code, done.out) == (0, "")
    assert f"made from the floats in {openelm}; they are stored as 4-bit, all others as they were" in done.err
    assert "KL divergence from the unmerged model: " in done.err
    kept = run("merge", *asked, "-o", tmp_path / "two", "--keep", "floats", "--json")
    told = json.loads(kept.out)
    assert (told["stored_as"], told["source"], told["why"]) == ("bfloat16", None, "it was asked for")
    assert told["report"]["tokens"] == 40
    assert run("generate", "--model", tmp_path / "two", "-p", "Hello", "--max-tokens", 2).code == 0


def test_refusals_speak_of_flags(made: Made, openelm: Path, tmp_path: Path) -> None:
    asked = "--model", made.model, "--adapter", made.adapter, "-o", tmp_path / "out"
    both = run("merge", *asked, "--keep", "8-bit", "--source", openelm)
    assert both.code == 2
    assert "--keep is for merging without a float source. Leave it or --source out." in both.err
    assert run("merge", "--model", made.model, "--adapter", tmp_path, "-o", tmp_path / "out").code == 66
    assert run("merge", *asked, "--source", made.model).code == 2
    assert not (tmp_path / "out").exists()
