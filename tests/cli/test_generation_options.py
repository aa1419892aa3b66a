"""The options of commands that ask a model: each option of the library has a flag, and help shows them in sections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from helpers.command_line import answer, run

import elm_mlx
from elm_mlx.api.cache_kind import LEAST_WINDOW
from elm_mlx.api.options import Options
from elm_mlx.cli.group import cli
from elm_mlx.cli.kinds import TOP_LOGPROBS, WINDOW_SIZE
from elm_mlx.cli.sections import OTHERS
from elm_mlx.engine.logprobs import MOST_ALTERNATIVES

# Options of the library that no flag sets, and why.
# No command has a reason to read again what it holds; a response_format's forms have flags of their own.
NO_FLAG = {"reuse", "response_format"}
FORMS = {"schema", "regex", "choices", "grammar"}

SECTIONS_OF_GENERATE = {
    "Model": "--model --bits --adapter --force --parallel",
    "Prompt": "--prompt --raw --chat-template",
    "Sampling": "--temperature --top-k --top-p --min-p --repetition-penalty --presence-penalty --frequency-penalty "
    "--logit-bias --ban --seed --plain",
    "Stopping": "--max-tokens --stop",
    "Structured output": "--schema --regex --choice --grammar",
    "Caches": "--window --kv-bits --save-cache --load-cache",
    "Speculation": "--draft --lookup",
    "Output": "--completions --logprobs --json --show-config --quiet --help",
}


class Asked:
    """A model that notes what it is asked for, and says one word."""

    notices = ()
    has_chat_template = False

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}
        self.options: dict[str, Any] = {}

    def load(self, *_: object, **arguments: Any) -> Asked:
        self.loaded = arguments
        return self

    def stream(self, _: object, **options: Any) -> Any:
        self.options = options
        return iter([elm_mlx.Piece("word", 5, "length")])

    def completions(self, _: object, count: int, **options: Any) -> list[elm_mlx.Completion]:
        self.options = options
        stats = elm_mlx.Stats(1, 1, 0.0, None, None, 0)
        return [elm_mlx.Completion(f"word {number}", [number], "length", stats) for number in range(count)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the next command asks of a model."""
    model = Asked()
    monkeypatch.setattr(elm_mlx, "load", model.load)
    return model


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def sections(name: str) -> dict[str, str]:
    """The sections of a command's help: their titles, and the longest name of each option in them."""
    shown = run(name, "--help").out
    parts = re.split(r"^([A-Z][\w ]+):$", shown.partition("\n\n")[2], flags=re.M)[1:]
    lines = {title: re.findall(r"^  (-.*)$", text, re.M) for title, text in zip(parts[::2], parts[1::2], strict=True)}
    return {title: " ".join(re.findall(r"--[\w-]+", line)[0] for line in flags) for title, flags in lines.items()}


def test_help_of_generate_shows_these_options_in_these_sections() -> None:
    assert sections("generate") == SECTIONS_OF_GENERATE


@pytest.mark.parametrize("name", ["chat", "batch"])
def test_the_other_commands_have_the_same_sections_and_no_option_outside_them(name: str) -> None:
    shown = sections(name)
    assert OTHERS not in shown
    for title in ("Model", "Sampling", "Speculation", "Stopping"):
        assert shown[title] == SECTIONS_OF_GENERATE[title]
    assert shown["Caches"] == "--window --kv-bits"  # files are for one prompt


def test_every_option_of_the_library_is_a_flag_of_generate() -> None:
    flags = {option.name for option in command("generate").params}
    assert set(Options.__annotations__) - flags == NO_FLAG


@pytest.mark.parametrize("name", ["chat", "batch"])
def test_every_option_of_the_library_but_log_probabilities_and_forms_is_a_flag_of_chat_and_batch(name: str) -> None:
    flags = {option.name for option in command(name).params}
    assert set(Options.__annotations__) - flags == NO_FLAG | FORMS | {"logprobs"}  # which neither has a place for


def test_bench_has_the_same_sections_of_what_changes_the_work_of_a_step() -> None:
    shown = sections("bench")
    assert OTHERS not in shown
    assert shown["Sampling"] == SECTIONS_OF_GENERATE["Sampling"].removesuffix(" --seed --plain")
    assert (shown["Caches"], shown["Speculation"]) == ("--window --kv-bits", "--draft --lookup")


def test_the_bounds_of_flags_are_those_of_the_library() -> None:
    assert (WINDOW_SIZE.min, TOP_LOGPROBS.max) == (LEAST_WINDOW, MOST_ALTERNATIVES)


@pytest.mark.parametrize(
    ("typed", "option", "value"),
    [
        ("--repetition-penalty 1.2", "repetition_penalty", 1.2),
        ("--presence-penalty -0.5", "presence_penalty", -0.5),
        ("--frequency-penalty 2", "frequency_penalty", 2.0),
        ("--logit-bias 5=1.5 --logit-bias 7=-100", "logit_bias", {5: 1.5, 7: -100.0}),
        ("--ban 5 --ban 7", "banned_ids", [5, 7]),
        ("--stop x --stop y,z", "stop", ("x", "y,z")),
        ("--window 64", "window", 64),
        ("--kv-bits 8", "kv_bits", 8),
        ("--kv-bits k8v4", "kv_bits", "k8v4"),
        ("--lookup", "lookup", True),
        ("--plain", "plain", True),
        ("--logprobs 0 --completions 1 --json", "logprobs", 0),
    ],
)
def test_what_is_typed_reaches_the_model_and_what_is_not_is_left_to_it(
    asked: Asked, typed: str, option: str, value: object
) -> None:
    assert run("generate", *typed.split()).code == 0
    assert asked.options[option] == value
    others = [given for name, given in asked.options.items() if name in Options.__annotations__ and name != option]
    assert not any(others)


@pytest.mark.parametrize(
    ("wish", "option", "value"),
    [
        ("LOGIT_BIAS=5=1.5,7=-100", "logit_bias", {5: 1.5, 7: -100.0}),
        ("BAN=5,7", "banned_ids", [5, 7]),
        ("STOP=The end, or not", "stop", ("The end, or not",)),
        ("KV_BITS=4", "kv_bits", 4),
        ("REPETITION_PENALTY=1.1", "repetition_penalty", 1.1),
        ("PLAIN=1", "plain", True),
    ],
)
def test_the_environment_has_them_all_with_commas_between_several_ids(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, wish: str, option: str, value: object
) -> None:
    name, _, text = wish.partition("=")
    monkeypatch.setenv(f"ELM_MLX_{name}", text)
    assert run("generate").code == 0
    assert asked.options[option] == value


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("logit-bias", "5", "'5' is not ID=BIAS"),
        ("logit-bias", "5=much", "'much' is not a valid number"),
        ("logit-bias", "x=1", "'x' is not a valid id"),
        ("logit-bias", "5=10001", "10001.0 is not in the range -10000"),
        ("ban", "-1", "-1 is not in the range"),
        ("repetition-penalty", "0", "0.0 is not in the range"),
        ("presence-penalty", "101", "101.0 is not in the range"),
        ("frequency-penalty", "nan", "nan is not a number"),
        ("window", "0", "0 is not in the range"),
        ("kv-bits", "5", "'5' is not one of '8', '4', 'k8v4'"),
        ("logprobs", "21", "21 is not in the range"),
        ("completions", "0", "0 is not in the range"),
        ("stop", "\udcff", "not UTF-8 text"),
    ],
)
def test_a_value_without_a_meaning_is_refused_before_anything_is_looked_up(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    typed = run("generate", "--model", "./nowhere", f"--{name}", value)
    assert (typed.code, complaint in typed.err, f"--{name}" in typed.err) == (2, True, True), typed.err
    monkeypatch.setenv(mirror := f"ELM_MLX_{name.replace('-', '_').upper()}", value)
    wished = run("generate", "--model", "./nowhere")
    assert (wished.code, complaint in wished.err, mirror in wished.err) == (2, True, True), wished.err


def test_an_id_that_the_model_does_not_have_is_refused_before_its_weights_are_read(damaged: Path) -> None:
    (damaged / "model.safetensors").write_bytes(b"no weights")
    for option in ("--ban 99999", "--logit-bias 99999=1"):
        done = run("generate", "--model", damaged, *option.split())
        assert (done.code, f"Leave it out of {option.split()[0]}." in done.err) == (2, True), done.err


def test_a_token_has_one_bias() -> None:
    done = run("generate", "--logit-bias", "5=1", "--logit-bias", "5=2")
    assert (done.code, "Invalid value for '--logit-bias': it names a token twice" in done.err) == (2, True)


def test_a_draft_goes_to_loading(asked: Asked) -> None:
    run("generate", "--draft", "auto")
    assert asked.loaded["draft"] == "auto"
    run("generate")
    assert "draft" not in asked.loaded


def test_the_page_about_options_names_every_one_of_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "options.md").read_text(encoding="utf-8")
    for title in ("Sampling", "Stopping", "Caches", "Speculation"):
        for flag in SECTIONS_OF_GENERATE[title].split():
            assert f"`{flag}" in page, flag
    assert all(name in page for name in NO_FLAG)


# What is printed


def test_several_completions_are_numbered_texts_or_a_list_in_json(asked: Asked) -> None:
    assert run("generate", "--completions", 2).out == "--- 1 of 2 ---\nword 0\n--- 2 of 2 ---\nword 1\n"
    whole = answer(run("generate", "--completions", 2, "--json"))
    assert [one["tokens"] for one in whole["completions"]] == [[0], [1]]
    assert list(whole) == ["model", "completions"]


def test_log_probabilities_need_json_and_a_wish_for_them_is_dropped_without(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = run("generate", "--logprobs", 2)
    assert (typed.code, typed.out) == (2, "")
    assert "Plain text shows no log-probabilities. Give --json, or leave --logprobs out." in typed.err
    monkeypatch.setenv("ELM_MLX_LOGPROBS", "2")
    wished = run("generate")
    assert (wished.code, wished.out, asked.options["logprobs"]) == (0, "word\n", None)
    assert "ELM_MLX_LOGPROBS=2 is ignored. Plain text shows no log-probabilities." in wished.err


def test_log_probabilities_are_in_the_json_object_as_the_library_gives_them(openelm: Path) -> None:
    ask = ["generate", "--model", openelm, "-p", "Hi", "-n", 3, "--json"]
    with elm_mlx.load(openelm) as lm:
        done = lm.generate("Hi", 3, logprobs=2)
    spoken = answer(run(*ask, "--logprobs", 2))
    assert done.logprobs is not None
    assert spoken["logprobs"] == [
        {"logprob": one.logprob, "alternatives": [list(pair) for pair in one.alternatives]} for one in done.logprobs
    ]
    assert "logprobs" not in answer(run(*ask))
    several = answer(run(*ask, "--logprobs", 0, "--completions", 2))["completions"]
    assert [len(one["logprobs"]) for one in several] == [len(one["tokens"]) for one in several]


def test_a_conversation_is_not_printed_as_json(openelm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("chat", "--model", openelm, "--json")
    assert (done.code, "Leave --json out; it is for --show-config" in done.err) == (2, True)
    monkeypatch.setenv("ELM_MLX_JSON", "1")
    assert run("chat", "--model", openelm).code == 0


# What the library refuses of them together


def test_options_that_contradict_each_other_are_refused_before_a_model_is_looked_up() -> None:
    done = run("generate", "--model", "./nowhere", "--plain", "--top-p", 0.9)
    assert (done.code, "leave --top-p out, or --plain" in done.err) == (2, True)
    assert run("generate", "--model", "./nowhere", "--top-p", 0.9).code == 66  # which a model may understand


def test_a_filter_beside_plain_is_refused_and_of_the_two_the_wish_yields(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (damaged / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.7}', encoding="utf-8")
    ask = ["generate", "--model", damaged, "-p", "Hi", "-n", 2]
    both = run(*ask, "--plain", "--top-p", 0.9)
    assert (both.code, "leave --top-p out, or --plain" in both.err) == (2, True)
    monkeypatch.setenv("ELM_MLX_PLAIN", "1")
    typed_filter = run(*ask, "--top-p", 0.9)
    assert (typed_filter.code, "ELM_MLX_PLAIN=1 is ignored" in typed_filter.err) == (0, True)
    monkeypatch.delenv("ELM_MLX_PLAIN")
    monkeypatch.setenv("ELM_MLX_TOP_P", "0.9")
    typed_plain = run(*ask, "--plain")
    assert (typed_plain.code, "ELM_MLX_TOP_P=0.9 is ignored" in typed_plain.err) == (0, True)
