"""The program: its overview and help, the environment's mirrors of its options, and an exit code a mistake."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from helpers import checkpoints
from helpers.command_line import answer, run

import elm_mlx
from elm_mlx import cli, convert, errors
from elm_mlx.cli import kinds
from elm_mlx.cli.group import COMMANDS, GROUPS, MODULES
from elm_mlx.cli.group import cli as cli_group
from elm_mlx.convert import verify
from elm_mlx.library import local
from elm_mlx.library import pull as library_pull

# Overview and help


def test_help_names_every_command_and_every_exit_code() -> None:
    shown = run("--help").out
    files = {
        path.stem
        for path in Path(cli.__file__).parent.glob("*.py")
        if "@click.command" in path.read_text(encoding="utf-8")
    }
    assert files == {MODULES.get(name, name) for name in COMMANDS}
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", shown, re.M)
        assert run(name, "--help").out.startswith(f"Usage: elm-mlx {name}")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ElmError)]
    codes = {kind.exit_code for kind in kinds} | {0, cli.HUNG_UP, cli.INTERRUPTED, cli.PIPE_CLOSED, cli.TERMINATED}
    assert {int(code) for code in re.findall(r"\b\d+\b", shown.partition("Exit codes:")[2])} == codes


def test_the_bare_program_shows_an_overview_by_purpose_with_three_examples() -> None:
    done = run()
    assert (done.code, done.err) == (0, "")
    places = [done.out.index(f"{title}:") for title in GROUPS]
    assert places == sorted(places)
    examples = done.out.partition("Examples:")[2].partition("Environment:")[0]
    assert len(re.findall(r"^ +elm-mlx (\w+)", examples, re.M)) == 3


# Options of all commands


def test_quiet_leaves_the_result_and_errors() -> None:
    assert run("generate", "--max-tokens", 1, "--quiet").err == ""
    assert "There is no directory" in run("generate", "--model", "./nowhere", "-q").err


def test_every_option_has_a_mirror_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELM_MLX_MAX_TOKENS", "2")
    monkeypatch.setenv("ELM_MLX_QUIET", "1")
    monkeypatch.setenv("ELM_MLX_JSON", "1")
    done = run("generate")
    assert (len(answer(done)["tokens"]), done.err) == (2, "")
    assert len(answer(run("generate", "--max-tokens", 3))["tokens"]) == 3  # what is typed comes first
    monkeypatch.setenv("ELM_MLX_MAX_TOKENS", "many")
    assert "ELM_MLX_MAX_TOKENS" in run("generate").err


def test_what_overrides_a_refusal_has_no_mirror_and_a_preference_for_bits_no_say_where_it_means_nothing(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ELM_MLX_FORCE", "ELM_MLX_YES"):
        monkeypatch.setenv(name, "1")
    target = tmp_path / "out"
    assert run("convert", openelm, "--output", target).code == 0
    assert run("convert", openelm, "--output", target).code == 73
    monkeypatch.setenv("ELM_MLX_BITS", "4")
    assert run("generate", "--max-tokens", 1).code == 0
    assert run("generate", "--model", target, "--max-tokens", 1).code == 0
    assert run("generate", "--bits", 4, "--max-tokens", 1).code == 2


def test_no_two_options_share_a_mirror_and_mean_different_things() -> None:
    known = {"ELM_MLX_CACHE", "ELM_MLX_BLAS"}  # which are no options
    for name in COMMANDS:
        command = cli_group.get_command(click.Context(cli_group), name)
        assert command is not None
        mirrors = [option.envvar for option in command.params if isinstance(option, click.Option)]
        assert len(set(mirrors)) == len(mirrors)
        assert not known & set(mirrors)


# Mistakes


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("nonsense", "No such command 'nonsense'"),
        ("generate --nonsense", "No such option"),
        ("generate extra", "unexpected extra argument"),
        ("generate --max-tokens 0", "0 is not in the range"),
        ("generate --max-tokens many", "'many' is not a valid integer"),
        ("generate --temperature -1", "-1.0 is not in the range"),
        ("generate --temperature warm", "'warm' is not a valid number"),
        ("generate --temperature nan", "nan is not a number"),
        ("generate --temperature inf", "inf is not in the range"),
        ("generate --temperature 1e5", "100000.0 is not in the range 0<=x<=10000.0"),
        ("generate --temperature 1 --top-p nan", "nan is not a number"),
        ("generate --temperature 1 --min-p nan", "nan is not a number"),
        ("generate --temperature 1 --top-k 99999999999999999999", "is not in the range 0<=x<=2147483647"),
        ("generate --seed x", "'x' is not a valid integer"),
        ("generate --prompt \udcff", "not UTF-8 text"),
        ("chat --system \udcff", "not UTF-8 text"),
        ("generate --temperature 1 --top-p 0", "0.0 is not in the range"),
        ("generate --temperature 1 --top-p 1.1", "1.1 is not in the range"),
        ("generate --temperature 1 --top-k -1", "-1 is not in the range"),
        ("generate --temperature 1 --top-k 1.5", "'1.5' is not a valid integer"),
        ("generate --temperature 1 --min-p 2", "2.0 is not in the range"),
        ("generate --model MODEL --top-k 5", "top_k would change nothing"),
        ("info MODEL MODEL", "unexpected extra argument"),
        ("convert", "Missing argument 'SOURCE'"),
        ("convert MODEL --output OUT --bits 7", "'7' is not one of"),
        ("convert MODEL --output OUT --group-size 32", "--group-size means nothing without --bits"),
        ("convert MODEL --output OUT --bits 4 --group-size 48", "'48' is not one of"),
        ("convert MODEL --output OUT --bits 4 --mode mxfp4", "--mode mxfp4 fixes its bits"),
        ("convert MODEL --output OUT --group-size 32 --mode nvfp4", "--mode nvfp4 fixes its bits"),
        ("convert MODEL --output OUT --mode ternary", "'ternary' is not one of"),
        ("convert MODEL --output OUT --dtype int8", "'int8' is not one of"),
        ("convert MODEL --output OUT --max-shard-size 0", "0.0 is not in the range"),
        ("convert MODEL --output OUT --max-shard-size nan", "nan is not a number"),
        ("convert MODEL --output OUT --rope-factor nan", "nan is not a number"),
        ("verify MODEL --against MODEL --max-kl nan", "nan is not a number"),
        ("verify MODEL --against MODEL --tokens 9999999", "9999999 is not in the range"),
        ("verify MODEL --against MODEL --rope-factor -1", "-1.0 is not in the range"),
        ("info --context many", "'many' is not a valid integer"),
    ],
)
def test_wrong_use_is_exit_2_and_says_why(openelm: Path, tmp_path: Path, line: str, complaint: str) -> None:
    places = {"MODEL": str(openelm), "OUT": str(tmp_path / "out")}
    done = run(*(places.get(word, word) for word in line.split()))
    assert (done.code, done.out) == (2, "")
    assert complaint in done.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "generate --model ''",
        "generate --chat-template ''",
        "chat --model ''",
        "chat --chat-template ''",
        "pull ''",
        "info ''",
        "rm ''",
        "convert ''",
        "convert MODEL --output ''",
        "convert MODEL --tokenizer ''",
        "verify '' --against MODEL",
        "verify MODEL --against ''",
        "verify MODEL --against MODEL --text ''",
        "bench --model ''",
        "bench --model MODEL,",
    ],
)
def test_a_name_that_is_empty_is_refused_everywhere(openelm: Path, line: str) -> None:
    done = run(*(word.replace("MODEL", str(openelm)).replace("''", "") for word in line.split()))
    assert (done.code, done.out) == (2, "")
    assert "it is empty" in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("generate --temperature nan", 2),
        ("generate --top-k 99999999999999999999", 2),
        ("generate --prompt \udcff", 2),
        ("generate --chat-template nowhere", 66),
        ("generate --chat-template BROKEN", 65),
        ("generate --raw --chat-template zephyr", 2),
        ("chat --top-p nan", 2),
        ("chat --chat-template nowhere", 66),
        ("chat --chat-template BROKEN", 65),
        ("bench -p 0 -n 0", 2),
        ("bench --dtype float16", 2),
    ],
)
def test_options_are_judged_before_a_model_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int
) -> None:
    monkeypatch.setattr(elm_mlx, "pull", lambda *_, **__: pytest.fail("looked up"))
    (tmp_path / "broken.jinja").write_text("{% for %}", encoding="utf-8")
    words = [word.replace("BROKEN", str(tmp_path / "broken.jinja")) for word in line.split()]
    done = run(*words, "--model", "openelm-270m")
    assert (done.code, done.out) == (code, ""), done.err


@pytest.mark.parametrize(
    "line",
    [
        "convert openelm-270m --bits 4 --recipe mixed-2-4",
        "convert openelm-270m --dry-run --group-size 32",
        "convert openelm-270m --max-shard-size 0",
        "convert openelm-270m --rope-factor 8",
        "convert openelm-270m --tokenizer nowhere --output OUT",
        "verify MODEL --against openelm-270m --tokens 9999999",
        "verify MODEL --against openelm-270m --text nowhere",
        "verify MODEL --against openelm-270m --rope-factor 8",
    ],
)
def test_options_are_judged_before_a_checkpoint_is_looked_up(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    for name in ("fetch_checkpoint", "fetch_tokenizer"):
        monkeypatch.setattr(library_pull, name, lambda *_, **__: pytest.fail("fetched"))
    monkeypatch.setattr(local, "cached_checkpoint", lambda *_, **__: pytest.fail("looked up"))
    places = {"MODEL": str(openelm), "OUT": str(tmp_path / "out")}
    done = run(*(places.get(word, word) for word in line.split()))
    assert (done.code, done.out) == (66 if "nowhere" in line else 2, ""), done.err


def test_the_program_and_the_library_have_the_same_bounds() -> None:
    assert (kinds.SHARD_GB.min, kinds.SHARD_GB.max) == (convert.MIN_SHARD_GB, convert.MAX_SHARD_GB)
    assert (kinds.TEXT_TOKENS.min, kinds.TEXT_TOKENS.max) == (1, verify.MOST_TOKENS)


def test_filters_of_a_greedy_model_are_refused_before_its_weights_are_read(
    openelm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elm_mlx, "load", lambda *_, **__: pytest.fail("loaded"))
    done = run("generate", "--model", openelm, "--top-p", 0.9)
    assert (done.code, "Give a --temperature, or leave --top-p out." in done.err) == (2, True)


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (errno.EMFILE, 1, "Too many open files. Let this process open more files: ulimit -n 1024."),
        (errno.ENOSPC, 74, "/some: No space left on device. Free some space."),
        (errno.EACCES, 1, "/some: Permission denied. Check that it is there and yours."),
    ],
)
def test_what_the_system_refuses_comes_with_advice(
    monkeypatch: pytest.MonkeyPatch, number: int, code: int, message: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/some")

    monkeypatch.setattr(elm_mlx, "info", refuse)
    done = run("info")
    assert (done.code, done.out, done.err) == (code, "", f"elm-mlx: {message}\n")


def _without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _config(**changes: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(
        json.dumps(checkpoints.OPENELM | changes), encoding="utf-8"
    )


def _cut(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)


def _config_is_a_directory(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


@pytest.mark.parametrize(
    ("breakage", "code", "complaint"),
    [
        (shutil.rmtree, 66, "There is no"),
        (_without("config.json"), 66, "config.json"),
        (_without("model.safetensors"), 66, "no weights"),
        (_without("tokenizer.json"), 66, "--tokenizer"),
        (_config(model_type="nobody"), 78, "'nobody'"),
        (_config(model_dim=-1), 65, "model_dim is -1"),
        (lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"), 65, "not valid JSON"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}", encoding="utf-8"), 65, "tokenizer"),
        (_cut, 65, "cut short"),
        (_config_is_a_directory, 65, "it is a folder"),
    ],
)
def test_a_model_that_cannot_run_is_a_sentence(
    damaged: Path, breakage: Callable[[Path], object], code: int, complaint: str
) -> None:
    breakage(damaged)
    for arguments in (["generate", "--model", damaged], ["convert", damaged]):
        done = run(*arguments)
        assert (done.code, done.out) == (code, "")
        assert done.err.startswith("elm-mlx: ")
        assert complaint in done.err
        assert str(damaged.name) in done.err or "config.json" in done.err
    assert [path.name for path in damaged.parent.iterdir() if path != damaged] == []
