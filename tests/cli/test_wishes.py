"""Who wins: what is typed, then the environment, then the model's files; a wish that means nothing is left aside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import Result, answer, run

import elm_mlx
from elm_mlx.bench import measure
from elm_mlx.convert import convert
from elm_mlx.errors import InvalidRequest

BENCH = "bench --json -p 16 -n 4"


@pytest.fixture(scope="module")
def four_bits(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny OpenELM in 4 bits."""
    return convert(openelm, tmp_path_factory.mktemp("wishes") / "4bit", bits=4, group_size=32).output


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench` names what it would measure."""

    def names(subjects: Iterable[tuple[str, Path]], *_: object) -> Iterator[dict[str, Any]]:
        yield {"models": [{"name": name, "notice": None} for name, _ in subjects]}

    monkeypatch.setattr(measure, "bench", names)


def ask(line: str, places: dict[str, Path]) -> Result:
    return run(*(places.get(word, word) for word in line.split()))


@pytest.mark.parametrize(
    ("wish", "typed"),
    [
        ("TOP_P=0.9", "generate -n 1"),
        ("TOP_K=5", "generate -n 1"),
        ("MIN_P=0.1", "generate -n 1 --model MODEL"),
        ("TOP_P=0.9", "chat"),
        ("SYSTEM=x", "chat"),
        ("SYSTEM=x", "chat --model MODEL"),
        ("BITS=4", "generate -n 1"),
        ("BITS=4", "generate -n 1 --model MODEL"),
        ("BITS=4", "chat"),
        ("BITS=4", "info"),
        ("BITS=4", "info MODEL"),
        ("BITS=4,8", BENCH),
        ("BITS=4,8", f"{BENCH} --model MODEL"),
        ("CHAT_TEMPLATE=zephyr", "generate -n 1 --raw"),
        ("CHAT_TEMPLATE=nowhere", "generate -n 1 --raw"),
        ("RAW=1", "generate -n 1 --chat-template zephyr"),
        ("BITS=4", "convert MODEL --dry-run --recipe mixed-2-4"),
        ("BITS=4", "convert MODEL --dry-run --mode mxfp4"),
        ("RECIPE=mixed-2-4", "convert MODEL --dry-run --bits 4"),
        ("RECIPE=mixed-2-4", "convert MODEL --dry-run --mode mxfp4"),
        ("MODE=mxfp4", "convert MODEL --dry-run --bits 4"),
        ("MODE=mxfp4", "convert MODEL --dry-run --recipe mixed-2-4"),
        ("GROUP_SIZE=32", "convert MODEL --dry-run"),
        ("GROUP_SIZE=32", "convert MODEL --dry-run --mode nvfp4"),
        ("ROPE_FACTOR=8", "convert MODEL --dry-run"),
        ("ROPE_FACTOR=8", "verify MODEL --against MODEL --tokens 2"),
        ("MODEL=nowhere", f"{BENCH} --random llama-16x64"),
        ("RANDOM=llama-16x64", f"{BENCH} --model MODEL"),
        ("DTYPE=float16", BENCH),
        ("N_DEPTH=9000", BENCH),
        ("N_PROMPT=900000", "bench --json --random llama-16x64 -n 4"),
        ("CPU_POLICY=auto", f"{BENCH} --compare mlx-lm"),
        ("JSON=1", "list --names"),
        ("NAMES=1", "list --json"),
    ],
)
def test_a_wish_that_means_nothing_here_changes_nothing_and_is_told_once(
    openelm: Path, monkeypatch: pytest.MonkeyPatch, wish: str, typed: str
) -> None:
    places = {"MODEL": openelm}
    name, _, value = f"ELM_MLX_{wish}".partition("=")
    without = ask(typed, places)
    monkeypatch.setenv(name, value)
    done = ask(typed, places)
    assert (done.code, without.code, done.out) == (0, 0, without.out), done.err
    notes = [line for line in done.err.splitlines() if "left aside" in line]
    assert [note.partition(" ")[0] for note in notes] == [f"{name}={value}"]
    assert [line for line in done.err.splitlines() if line not in notes] == without.err.splitlines()


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("generate -n 1 --top-p 0.9", "leave --top-p out"),
        ("generate -n 1 --raw --chat-template zephyr", "Leave it or --chat-template out"),
        ("generate -n 1 --bits 4", "Leave --bits out"),
        ("generate -n 1 --model MODEL --bits 4", "Leave --bits out"),
        ("chat --system x", "Leave --system out"),
        ("convert MODEL --dry-run --recipe mixed-2-4 --bits 4", "leave --bits"),
        ("convert MODEL --dry-run --group-size 32", "--group-size means nothing"),
        ("convert MODEL --dry-run --rope-factor 8", "--rope-factor is for Meta's"),
        ("convert openelm-270m --rope-factor 8", "--rope-factor is for Meta's"),
        (f"{BENCH} --random llama-16x64 --model MODEL", "Leave it or --model out"),
        (f"{BENCH} --dtype float16", "Give --random, too"),
        ("list --json --names", "--names names alone"),
    ],
)
def test_the_same_typed_is_an_error(openelm: Path, typed: str, named: str) -> None:
    done = ask(typed, {"MODEL": openelm})
    assert (done.code, done.out) == (2, "")
    assert named in done.err


def test_quiet_leaves_out_what_was_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELM_MLX_TOP_P", "0.9")
    assert run("generate", "-n", 1, "--quiet").err == ""


def test_of_two_wishes_that_contradict_each_other_the_one_for_fewer_commands_is_kept(
    openelm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELM_MLX_BITS", "8")
    monkeypatch.setenv("ELM_MLX_RECIPE", "mixed-2-4")
    both = run("convert", openelm, "--dry-run")
    monkeypatch.delenv("ELM_MLX_BITS")
    assert both.out == run("convert", openelm, "--dry-run").out
    assert "ELM_MLX_BITS=8 is left aside" in both.err


def test_a_wish_that_means_something_wins_over_the_models_file_and_loses_to_what_is_typed(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = {"do_sample": True, "temperature": 0.5, "top_p": 0.8}
    (damaged / "generation_config.json").write_text(json.dumps(sampled), encoding="utf-8")
    lm, command = elm_mlx.load(damaged), ["generate", "--model", damaged, "-p", "Hi", "-n", 8, "--seed", 4, "--json"]

    def tokens(**options: float) -> list[int]:
        return lm.generate("Hi", 8, seed=4, **options).tokens  # type: ignore[arg-type]

    assert answer(run(*command))["tokens"] == tokens()
    monkeypatch.setenv("ELM_MLX_TEMPERATURE", "3")
    assert answer(run(*command))["tokens"] == tokens(temperature=3) != tokens()
    assert answer(run(*command, "--temperature", 9))["tokens"] == tokens(temperature=9) != tokens(temperature=3)
    monkeypatch.setenv("ELM_MLX_TEMPERATURE", "0")
    assert answer(run(*command))["tokens"] == tokens(temperature=0)
    typed = run(*command, "--top-p", 0.3)  # a filter is typed by who wants to sample
    assert answer(typed)["tokens"] == tokens(top_p=0.3)
    assert "ELM_MLX_TEMPERATURE=0 is left aside" in typed.err


def test_info_shows_the_model_of_the_environment_unless_one_is_typed(
    openelm: Path, four_bits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELM_MLX_MODEL", str(four_bits))
    assert run("info").out.splitlines()[0].split() == ["model", str(four_bits)]
    assert run("info", openelm).out.splitlines()[0].split() == ["model", str(openelm)]
    assert "as if in 4 bits" in run("info", openelm, "--bits", 4).out


@pytest.mark.parametrize(
    ("wish", "typed", "code"),
    [
        ("MAX_TOKENS=abc", "generate --model MODEL", 2),
        ("TEMPERATURE=nan", "generate --model MODEL", 2),
        ("TOP_P=1.5", "chat", 2),
        ("SYSTEM=\udcff", "chat", 2),
        ("BITS=7", "convert MODEL --dry-run", 2),
        ("BITS=four", f"{BENCH}", 2),
        ("CONTEXT=0", "info", 2),
        ("CHAT_TEMPLATE=nowhere", "chat", 66),
        ("TOKENIZER=nowhere", "convert MODEL --dry-run", 66),
        ("MAX_SHARD_SIZE=nan", "convert MODEL --dry-run", 2),
        ("TEXT=nowhere", "verify MODEL --against MODEL", 66),
        ("TOKENS=9999999", "verify MODEL --against MODEL", 2),
        ("MODEL=nowhere", "generate", 66),
        ("MODEL=nowhere", "info", 66),
        ("MODEL=nowhere", BENCH, 66),
    ],
)
def test_a_value_that_can_mean_nothing_is_an_error_that_names_the_variable(
    openelm: Path, monkeypatch: pytest.MonkeyPatch, wish: str, typed: str, code: int
) -> None:
    name, _, value = f"ELM_MLX_{wish}".partition("=")
    monkeypatch.setenv(name, value)
    done = ask(typed, {"MODEL": openelm})
    assert (done.code, done.out, name in done.err) == (code, "", True)


def test_bits_that_a_repository_cannot_have_are_left_aside_only_as_a_wish(
    four_bits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull(_: str, bits: int | None, **__: object) -> elm_mlx.Located:
        if bits not in (None, 4):
            raise InvalidRequest("a/b is quantized to 4 bits already.", "Leave {bits} out.")
        return elm_mlx.Located(four_bits)

    monkeypatch.setattr(elm_mlx, "pull", pull)
    for command in (["generate", "-n", 1, "--model", "a/b"], ["pull", "a/b"]):
        typed = run(*command, "--bits", 8)
        assert (typed.code, "Leave --bits out." in typed.err) == (2, True)
        monkeypatch.setenv("ELM_MLX_BITS", "8")
        wished = run(*command)
        assert wished.code == 0, wished.err
        assert "ELM_MLX_BITS=8 is left aside. a/b is quantized to 4 bits already." in wished.err
        monkeypatch.delenv("ELM_MLX_BITS")
