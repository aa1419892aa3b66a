"""Every advice in a message can be followed: what it names is there, and each command is run by a test."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
from helpers import followed
from helpers.documents.advice import ARGUMENT, ERRORS, HOLE, arguments, commands, is_error, messages

import elm_mlx
from elm_mlx.cli.group import COMMANDS, cli

ROOT = Path(__file__).parents[2]
STANDS_FOR = {"--bits": "4", "-n": "2"}  # what a hole behind a flag may be; elsewhere it is the demo
FOREIGN = {"--local-dir"}  # a flag of hf


@cache
def options() -> dict[str, click.Command]:
    """The commands, each with its options."""
    context = click.Context(cli)
    return {name: command for name in COMMANDS if (command := cli.get_command(context, name))}


@cache
def flags() -> set[str]:
    return {flag for command in options().values() for option in command.params for flag in option.opts}


def test_an_advised_command_is_one_that_the_program_takes() -> None:
    ours = [command for command in commands() if command.startswith("elm-mlx ")]
    assert len(ours) > 20
    for advised in ours:
        check_advised(advised)


def check_advised(advised: str) -> None:
    """The program takes a command line and all its words."""
    words = shlex.split(advised)[1:]
    assert words[0] in COMMANDS, advised
    for place, word in enumerate(words):
        if HOLE in word:
            words[place] = STANDS_FOR.get(words[place - 1], "demo")
    command = options()[words[0]]
    above = cli.make_context("elm-mlx", [], resilient_parsing=True)
    context = click.Context(command, above, resilient_parsing=True, **command.context_settings)  # it may lack words
    command.parse_args(context, words[1:])
    assert not context.args, advised
    own = {flag for option in command.params for flag in option.opts}
    known = flags() if words[0] == "launch" else own  # behind launch stands another command
    assert {word for word in words[1:] if word.startswith("--")} <= known, advised


def test_an_advised_argument_is_one_of_the_library_or_a_flag() -> None:
    known = {parameter for value in public() for parameter in inspect.signature(value).parameters}
    known |= set(elm_mlx.Options.__annotations__)
    advised = list(arguments())
    assert len(advised) > 100
    for name, _, message in advised:
        flag = f"--{name.replace('_', '-')}"
        named = {option.name for command in options().values() for option in command.params}
        assert name in known | named or flag in flags(), f"{message.place}: nothing takes {name}"


def public() -> list[object]:
    """The functions and methods that a program calls."""
    from elm_mlx import convert, evaluate, train

    rooms = [getattr(elm_mlx, name) for name in elm_mlx.__all__ if name not in ERRORS]
    functions = [convert.convert, convert.check, convert.plan, evaluate.perplexity, train.train]
    methods = [method for kind in rooms if isinstance(kind, type) for method in vars(kind).values()]
    return [*functions, *filter(inspect.isfunction, [*rooms, *methods])]


def test_an_argument_in_braces_stands_in_an_advice() -> None:
    """A message's first text is shown as it is, so braces in it would be, too."""
    for file, call in calls_of_errors():
        parts = [part.value for part in ast.walk(call.args[0]) if isinstance(part, ast.Constant)]
        wrong = [text for text in parts if isinstance(text, str) and ARGUMENT.search(text)]
        assert not wrong, f"{file}:{call.lineno}: {wrong[0]} belongs into the advice"


def calls_of_errors() -> Iterator[tuple[Path, ast.Call]]:
    """Every place where an error is made with a message, and its file."""
    for file in [*(ROOT / "elm_mlx").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]:
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if "elm_mlx/convert/" not in str(file) else ()
        yield from ((file, node) for node in nodes if is_error(node) and isinstance(node, ast.Call) and node.args)


def test_an_advised_flag_is_one_of_a_command() -> None:
    for message in messages():
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", message.text):
            assert flag in flags() | FOREIGN, f"{message.place}: no command has {flag}"


def test_an_advised_variable_is_read() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "elm_mlx").rglob("*.py"))
    mirrors = {"ELM_MLX_NAME"} | {option.envvar for command in options().values() for option in command.params}
    for message in messages():
        for name in re.findall(r"\bELM_MLX_[A-Z_]*[A-Z]\b", message.text):
            assert name in mirrors or re.search(rf'["\']{name}["\']', code), f"{message.place}: nothing reads {name}"


def test_an_advised_extra_can_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for message in messages():
        for names in re.findall(r"(?:elm-mlx|\.)\[([a-z0-9,-]+)\]", message.text):
            assert set(names.split(",")) <= set(project["optional-dependencies"]), f"{message.place}: {names}"


def test_an_advised_document_is_there() -> None:
    for message in messages():
        for path in re.findall(r"\b(?:docs|examples|benchmarks)/[\w./-]+\.(?:md|py)\b", message.text):
            assert (ROOT / path).exists() or "ggml" in message.text, f"{message.place}: {path}"


def test_every_advised_command_is_followed_by_a_test() -> None:
    advised = {" ".join(command.split()).replace(HOLE, "*") for command in commands()}
    assert {command for command in advised if command.startswith(("elm-mlx", "hf"))} == set(followed.marks())
