"""Every advice in a message can be followed: what it names is there. (tests/docs/test_advice_tried.py follows it.)"""

from __future__ import annotations

import inspect
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import click
from helpers.documents.advice import ERRORS, HOLE, arguments, commands, messages

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


# Where each advised command is run as it is printed: a file of the tests and the test in it, or a page that runs it.
TRIED = {
    "elm-mlx batch": ("train/test_answers.py", "test_a_large_models_answers_teach_a_small_one_in_two_commands"),
    "elm-mlx batch --with-prompts": ("train/test_answers.py", "test_a_large_models_answers_teach_a_small_one_in_two"),
    "elm-mlx convert": ("cli/test_convert_command.py", "test_weights_that_are_no_numbers_are_refused_by_name_and"),
    "elm-mlx convert □": ("library/test_remedies.py", "test_a_checkpoint_of_torch_runs_after_the_command_that_is"),
    "elm-mlx convert □ --bits □": ("library/test_remedies.py", "test_bits_for_a_directory_are_made_by_the_command"),
    "elm-mlx convert □ --tokenizer FILE": ("library/test_convert_by_name.py", "test_a_repository_without_a_tokenizer_"),
    "elm-mlx generate": ("library/test_remedies.py", "test_an_adapter_that_is_no_model_runs_and_is_merged_by_the"),
    "elm-mlx generate --model □": ("library/test_remedies.py", "test_what_needs_no_conversion_runs_by_the_command"),
    "elm-mlx generate --model □ --prompt 'Once upon a time'": ("cli/test_convert_command.py", "test_convert_writes_be"),
    "elm-mlx generate --raw": ("library/test_remedies.py", "test_a_model_without_a_template_completes_plain_text"),
    "elm-mlx info □ --hosts 2x256": (
        "distributed/test_planning.py",
        "test_info_prints_the_plan_and_refuses_what",
    ),
    "elm-mlx list": ("library/test_from_name_to_text.py", "def test_"),
    "elm-mlx merge": ("cli/test_merge_command.py", "test_a_person_is_told_what_was_made_of_what"),
    "elm-mlx eval --json": ("evaluate/test_compare.py", "def test_"),
    "elm-mlx launch": ("distributed/test_commands.py", "test_two_ranks_say_what_one_process_says"),
    "elm-mlx launch -n □ □ --parallel □": ("distributed/test_commands.py", "test_the_advised_command_starts_two_ranks"),
    "elm-mlx merge --output DIR": ("library/test_remedies.py", "test_an_adapter_that_is_no_model_runs_and_is_merged"),
    "elm-mlx pull": ("library/test_remedies.py", "test_what_is_not_here_is_fetched_by_the_command_that_is_named"),
    "elm-mlx pull □": ("library/test_remedies.py", "test_what_is_not_here_is_fetched_by_the_command_that_is_named"),
    "elm-mlx pull □ --verify": ("library/test_repair.py", "test_a_damaged_copy_of_ours_is_mended_as_the_error_says"),
    "elm-mlx rm □": ("library/test_remedies.py", "test_a_copy_that_lost_files_is_made_again_by_the_command_in_its"),
    "elm-mlx train": ("train/test_answers.py", "test_a_large_models_answers_teach_a_small_one_in_two_commands"),
    "elm-mlx verify": ("cli/test_verify_command.py", "def test_"),
    "elm-mlx verify DIRECTORY --against DIRECTORY": ("cli/test_generate_command.py", "as the sentence says"),
    "elm-mlx verify DIRECTORY --against SOURCE": ("cli/test_verify_command.py", "def test_"),
    "hf cache rm 'model/□'": ("library/test_remedies.py", "test_what_the_hub_s_cache_holds_is_removed_by_the_command"),
    "hf download □ □ --local-dir .": ("library/test_remedies.py", "test_a_gguf_file_is_fetched_and_converted_as_the"),
}


def test_every_advised_command_is_tried_somewhere() -> None:
    named = {" ".join(advised.split()).replace(HOLE, "□") for advised in commands()}
    assert {command for command in named if command.startswith(("elm-mlx", "hf"))} == set(TRIED)
    for file, test in TRIED.values():
        assert test in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file} has no {test}"
