"""`check`: what cannot end well is refused before a checkpoint is fetched, and the place of the output is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elm_mlx.convert import check, convert, plan
from elm_mlx.convert.verify import verify
from elm_mlx.errors import InvalidRequest, MissingTokenizer, NotFound, TargetExists


def test_the_output_of_a_name_lies_here_with_its_form_in_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert check("OpenELM-270M", bits=4) == tmp_path / "OpenELM-270M-mlx-4bit"
    assert check("OpenELM-270M", dtype="float16") == tmp_path / "OpenELM-270M-mlx-fp16"
    assert check("OpenELM-270M", "there/out") == tmp_path / "there" / "out"


def test_the_output_is_where_a_conversion_puts_it(openelm: Path) -> None:
    assert check(openelm, bits=4, group_size=32) == plan(openelm, bits=4, group_size=32).target


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"bits": 7}, InvalidRequest),
        ({"group_size": 32}, InvalidRequest),
        ({"max_shard_size": -1}, InvalidRequest),
        ({"tokenizer": "nowhere"}, NotFound),
    ],
)
def test_options_without_a_meaning_are_refused(tmp_path: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        check("OpenELM-270M", tmp_path / "out", **options)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("nothing", ["", "a\0b"], ids=["empty", "NUL"])
def test_a_path_that_can_be_none_is_refused_and_never_the_working_directory(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing: str
) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("source", lambda: convert(nothing)),
        ("output", lambda: convert(openelm, nothing)),
        ("tokenizer", lambda: convert(openelm, tmp_path / "out", tokenizer=nothing)),
        ("source", lambda: check(nothing)),
        ("output", lambda: check("OpenELM-270M", nothing)),
        ("tokenizer", lambda: check("OpenELM-270M", "out", tokenizer=nothing)),
        ("converted", lambda: verify(nothing, openelm)),
        ("source", lambda: verify(openelm, nothing)),
        ("text", lambda: verify(openelm, openelm, nothing)),
    ]
    for name, call in calls:
        with pytest.raises(InvalidRequest, match=f"^{name} is "):
            call()
    assert not [*tmp_path.iterdir()]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingTokenizer):
        check("OpenELM-270M", tmp_path / "out", tokenizer=tmp_path)


def test_an_output_that_is_there_is_refused_unless_it_is_a_model_and_may_be_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    for force in (False, True):
        with pytest.raises(TargetExists):
            check("OpenELM-270M", out, force=force)
    (out / "config.json").write_text("{}", encoding="utf-8")
    assert check("OpenELM-270M", out, force=True) == out
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_an_option_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        check("OpenELM-270M", tmp_path / "out", bit=4)
