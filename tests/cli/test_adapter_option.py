"""--adapter: a name and a directory, or a directory alone, for every command that asks a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.adapters import config_of, made_sums, write_sums
from helpers.command_line import answer, run

import elm_mlx
from elm_mlx.cli.adapter import parse_adapter
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.store.adapters.write import Written, write_adapter

SHORT = ["--prompt", "Hello", "--max-tokens", 6, "--json"]


@pytest.fixture(scope="module")
def adapter(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("adapters") / "pirate", openelm, made_sums(openelm))


@pytest.fixture(scope="module")
def expected(openelm: Path, adapter: Path) -> list[int]:
    with elm_mlx.load(openelm) as lm:
        lm.load_adapter("pirate", adapter)
        return lm.generate("Hello", 6, adapter="pirate").tokens


def test_generate_answers_with_it_under_any_name(openelm: Path, adapter: Path, expected: list[int]) -> None:
    for typed in (adapter, f"any={adapter}"):
        assert answer(run("generate", "--model", openelm, "--adapter", typed, *SHORT))["tokens"] == expected
    assert answer(run("generate", "--model", openelm, *SHORT))["tokens"] != expected


@pytest.mark.slow
def test_chat_batch_and_bench_take_it(openelm: Path, adapter: Path, expected: list[int], tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "a", "prompt": "Hello", "max_tokens": 6}\n')
    done = run("batch", tmp_path / "in.jsonl", "--model", openelm, "--adapter", adapter, "-o", tmp_path / "out.jsonl")
    with elm_mlx.load(openelm) as lm:
        text = lm.tokenizer.decode(expected)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "out.jsonl").read_text())["text"] == text
    talk = run("chat", "--model", openelm, "--adapter", adapter, "--max-tokens", 6, stdin=b"Hello\n")
    assert text.strip() in talk.out, talk.err
    measured = run("bench", "--model", openelm, "--adapter", adapter, "-p", "8", "-n", "4", "-r", "1", "--json")
    assert json.loads(measured.out)["models"][0]["options"] == {"adapter": "pirate"}


def test_what_is_no_adapter_is_refused_before_a_model_is_looked_for(tmp_path: Path) -> None:
    done = run("generate", "--model", "no/such-model", "--adapter", tmp_path)
    assert (done.code, done.out) == (66, "")
    assert "There is no adapter in" in done.err


def test_one_of_other_weights_is_refused_unless_forced(openelm: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path, Written(made_sums(openelm), Base("another", "0" * 64)), config_of(openelm))
    done = run("generate", "--model", openelm, "--adapter", tmp_path, *SHORT)
    assert done.code == 2
    assert "give --force" in done.err
    assert run("generate", "--model", openelm, "--adapter", tmp_path, "--force", *SHORT).code == 0


def test_show_config_has_a_row_for_it(openelm: Path, adapter: Path) -> None:
    done = run("generate", "--show-config", "--json", "--model", openelm, "--adapter", adapter)
    assert answer(done)["adapter"] == {"value": str(adapter), "origin": "option"}


def test_a_directory_with_an_equals_sign_needs_no_name(tmp_path: Path) -> None:
    (odd := tmp_path / "a=b").mkdir()
    assert parse_adapter(str(odd)) == ("a=b", odd)
    assert parse_adapter("pirate=runs/7") == ("pirate", Path("runs/7"))
    assert parse_adapter("./x=y") == ("x=y", Path("x=y"))
