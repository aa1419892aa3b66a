"""`elm-mlx generate`: the completion on stdout and all else on stderr, or one JSON object."""

from __future__ import annotations

import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pexpect
import pytest
from helpers import checkpoints
from helpers.command_line import PATIENCE_S, answer, run

import elm_mlx

# What goes where


def test_stdout_gets_the_completion_and_one_newline(endless: Path) -> None:
    command = ["generate", "--model", endless, "--prompt", "Hello", "--max-tokens", 12]
    spoken = answer(run(*command, "--json"))
    assert run(*command).out == spoken["text"] + "\n"
    assert elm_mlx.load(endless).generate("Hello", 12).text == spoken["text"]


def test_notices_go_to_stderr(endless: Path) -> None:
    demo = run("generate", "--max-tokens", 1)
    assert "built-in demo" in demo.err
    assert "demo" not in demo.out
    named = run("generate", "--model", endless, "--max-tokens", 1)
    notice = elm_mlx.load(endless).notice
    assert named.err == (f"{notice}\n" if notice else "")


def test_json_is_one_object_with_these_keys(endless: Path) -> None:
    spoken = answer(run("generate", "--model", endless, "--prompt", "Hi", "--max-tokens", 3, "--json"))
    assert list(spoken) == ["model", "text", "tokens", "finish_reason", "stats", "stop_reason", "parsed",
                            "reasoning", "tool_calls"]  # fmt: skip
    assert (spoken["model"], spoken["finish_reason"], len(spoken["tokens"])) == (str(endless), "length", 3)
    assert {name: type(value) for name, value in spoken["stats"].items()} == {
        "prompt_tokens": int,
        "generated_tokens": int,
        "time_to_first_token_s": float,
        "prefill_tokens_per_s": float,
        "decode_tokens_per_s": float,
        "peak_memory_bytes": int,
        "cached_tokens": int,
        "max_tokens": int,
        "proposed": int,
        "accepted": int,
        "forgotten_tokens": int,
        "waited_s": float,
    }
    assert answer(run("generate", "--max-tokens", 1, "--json"))["model"] == "demo"


def test_an_answer_ends_before_the_first_of_several_stop_strings(
    endless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["generate", "--model", endless, "--prompt", "Hello", "--max-tokens", 12]
    whole = answer(run(*command, "--json"))["text"]
    late, early = whole[8:11], whole[3:6]
    asked = [*command, "--stop", late, "--stop", early]
    spoken = answer(run(*asked, "--json"))
    assert (spoken["finish_reason"], spoken["stop_reason"]) == ("stop", early)
    assert spoken["text"] == whole[: whole.index(early)]
    assert run(*asked).out == spoken["text"] + "\n"
    monkeypatch.setenv("ELM_MLX_STOP", early)
    assert run(*command).out == spoken["text"] + "\n"


@pytest.mark.parametrize(("stops", "why"), [([""], "is empty"), (["x"] * 17, "17 strings"), (["x" * 300], "300 char")])
def test_stop_strings_are_judged_before_a_model_is_looked_for(stops: list[str], why: str) -> None:
    done = run("generate", "--model", "./nowhere", *(word for stop in stops for word in ("--stop", stop)))
    assert done.code == 2
    assert "Invalid value for '--stop'" in done.err
    assert why in done.err


def test_escape_codes_of_a_model_are_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Coloured:
        notices = ()
        has_chat_template = False

        def stream(self, *_: object, **__: object) -> Any:
            return iter([elm_mlx.Piece("\x1b[1mbold", 5, "length")])

    monkeypatch.setattr(elm_mlx, "load", lambda *_, **__: Coloured())
    assert run("generate", "--model", ".").out == "\x1b[1mbold\n"


@pytest.mark.follows("elm-mlx verify DIRECTORY --against DIRECTORY")
def test_logits_that_are_no_numbers_end_it_with_a_sentence_after_what_was_said(endless: Path, tmp_path: Path) -> None:
    command = ["--prompt", "Hello", "--max-tokens", 6]
    spoken = answer(run("generate", "--model", endless, *command, "--json"))
    model = Path(shutil.copytree(endless, tmp_path / "model"))
    arrays = mx.load(str(model / "model.safetensors"))
    assert isinstance(arrays, dict)
    arrays["model.embed_tokens.weight"][spoken["tokens"][2]] = math.nan
    checkpoints.save(model, arrays)
    done = run("generate", "--model", model, *command)
    assert done.code == 65
    assert done.out == elm_mlx.load(endless).generate("Hello", 3).text + "\n"
    assert "The model's logits are NaN at token 4 of the answer: its weights are damaged, or" in done.err
    assert "with --dtype bfloat16 if it is float16" in done.err
    as_json = run("generate", "--model", model, *command, "--json")
    assert (as_json.code, as_json.out) == (65, "")
    advice = re.search("`elm-mlx (verify [^`]*)`", done.err)
    assert advice
    named = run(*advice[1].replace("DIRECTORY", str(model)).split(), "--tokens", 4)
    assert "NaN or infinite: model.embed_tokens.weight" in named.out


# The prompt


def test_a_prompt_comes_by_option_by_dash_and_by_pipe(endless: Path) -> None:
    command = ["generate", "--model", endless, "--max-tokens", 4, "--json"]
    by_option = answer(run(*command, "--prompt", "Grüße", stdin=b"not read"))
    by_dash = answer(run(*command, "--prompt", "-", stdin="Grüße\n".encode()))
    by_pipe = answer(run(*command, stdin="Grüße".encode()))
    assert by_option["tokens"] == by_dash["tokens"] == by_pipe["tokens"]
    two_newlines = answer(run(*command, stdin="Grüße\n\n".encode()))
    assert two_newlines["stats"]["prompt_tokens"] > by_option["stats"]["prompt_tokens"]


@pytest.mark.parametrize("nothing", [b"", b"\n", None], ids=["empty", "newline", "no stdin"])
def test_without_a_prompt_a_model_starts_from_bos_and_the_demo_from_its_story(
    endless: Path, nothing: bytes | None
) -> None:
    def ask(*arguments: object) -> dict[str, Any]:
        return answer(run("generate", "--max-tokens", 4, "--json", *arguments, stdin=nothing))

    assert ask("--model", endless)["stats"]["prompt_tokens"] == 1
    assert ask("--model", endless, "--prompt", "-")["stats"]["prompt_tokens"] == 1
    assert ask()["tokens"] == ask("--prompt", "Once upon a time")["tokens"]
    assert ask("--prompt", "-")["stats"]["prompt_tokens"] == 1


def test_on_a_terminal_the_demo_waits_for_no_prompt() -> None:
    patient = "import elm_mlx.cli.progress as p; p.PATIENCE_S = 60; from elm_mlx.cli import main; main()"
    child = pexpect.spawn(sys.executable, ["-c", patient, "generate", "--max-tokens", "3"], timeout=PATIENCE_S)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert b"built-in demo" in child.before
    assert b"\x1b[" not in child.before  # quick work shows no bar


def test_a_pipe_that_is_not_utf8_is_refused(endless: Path) -> None:
    done = run("generate", "--model", endless, stdin=b"caf\xe9")
    assert (done.code, done.out) == (2, "")
    assert "not UTF-8" in done.err


def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(openelm: Path) -> None:
    length = len(elm_mlx.load(openelm).tokenizer.encode("far " * 400))
    done = run("generate", "--model", openelm, stdin=b"far " * 400)
    assert (done.code, done.out) == (2, "")
    assert f"{length} tokens" in done.err
    assert "context 512" in done.err


# Sampling


def test_a_seed_repeats_and_another_differs(endless: Path) -> None:
    def tokens(*options: object) -> list[int]:
        command = ["generate", "--model", endless, "--prompt", "Hi", "--max-tokens", 16, "--json", *options]
        found: list[int] = answer(run(*command))["tokens"]
        return found

    assert tokens("--temperature", 1, "--seed", 0) == tokens("--temp", 1, "--seed", 0)
    assert tokens("--temperature", 1, "--seed", 0) != tokens("--temperature", 1, "--seed", 1)
    assert tokens("--temperature", 1) != tokens("--temperature", 1)
    assert tokens("--temperature", 1, "--top-k", 1) == tokens() == tokens("--temperature", 0, "--seed", 3)


# Keys and values


PASSAGE = "It rained all day, and the rain fell on the roof of the old house by the river until it grew dark."


def test_a_saved_prompt_is_loaded_again(endless: Path, tmp_path: Path) -> None:
    command = ["generate", "--model", endless, "--prompt", PASSAGE, "--max-tokens", 5, "--json"]
    path = tmp_path / "saved"
    first = run(*command, "--save-cache", path)
    assert f"tokens are saved in {path}." in first.err
    again = run(*command, "--load-cache", path)
    assert f"tokens are loaded from {path}." in again.err
    assert answer(again)["tokens"] == answer(first)["tokens"]
    assert answer(again)["stats"]["cached_tokens"] == answer(again)["stats"]["prompt_tokens"] - 1
    other = run(*command, "--load-cache", path, "--kv-bits", 8)
    assert "were not used" in other.err
    assert "were not used" not in again.err + first.err


def test_a_window_is_called_a_window(endless: Path) -> None:
    command = ["generate", "--model", endless, "--prompt", PASSAGE, "--max-tokens", 5, "--window", 16]
    assert "only the last 16 tokens: this is a window, not unlimited context" in run(*command).err
    assert "window" not in run(*command, "--quiet").err


def test_a_wish_for_a_window_beyond_the_context_is_ignored_with_a_note(
    openelm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELM_MLX_WINDOW", "600")
    command = ["generate", "--model", openelm, "--prompt", PASSAGE, "--max-tokens", 2]
    assert "ELM_MLX_WINDOW=600 is ignored. window is 600, and the model's context 512" in run(*command).err
    typed = run(*command, "--window", 700)
    assert (typed.code, "--window 512" in typed.err) == (2, True)


def test_caches_that_cannot_be_are_refused_in_flags(endless: Path, tmp_path: Path) -> None:
    command = ["generate", "--model", endless, "--prompt", PASSAGE, "--max-tokens", 5]
    for more, complaint, code in (
        (["--window", 3], "3 is not in the range x>=16", 2),
        (["--kv-bits", "5"], "'5' is not one of '8', '4', 'k8v4'", 2),
        (["--save-cache", tmp_path], "is a directory", 2),
        (["--save-cache", tmp_path / "no" / "file"], "There is no directory", 66),
        (["--load-cache", tmp_path / "none"], "There is no file", 66),
        (["--save-cache", endless / "config.json"], "exists, and is not a file of saved keys and values", 73),
        (["--save-cache", "/dev/null"], "exists, and is not a file of saved keys and values", 73),
        (["--load-cache", endless / "model.safetensors"], "is not a file of saved keys and values", 65),
    ):
        done = run(*command, *more)
        assert (complaint in done.err, done.code) == (True, code), done.err


@pytest.mark.parametrize("flag", ["--save-cache", "--load-cache"])
def test_files_of_caches_are_judged_before_a_model_is_looked_up(
    endless: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    wrong = endless / "config.json"
    typed = run("generate", "--model", "./nowhere", flag, wrong)
    assert (typed.code, f"{wrong}" in typed.err) == (73 if flag == "--save-cache" else 65, True)
    variable = f"ELM_MLX{flag[1:].upper().replace('-', '_')}"
    monkeypatch.setenv(variable, str(wrong))
    assert f"{variable}: {wrong} " in run("generate", "--model", "./nowhere").err


def test_several_completions_use_what_was_loaded_or_say_that_they_do_not(endless: Path, tmp_path: Path) -> None:
    command = ["generate", "--model", endless, "--prompt", PASSAGE, "--max-tokens", 2, "--completions", 2, "--json"]
    run(*command, "--save-cache", tmp_path / "saved")
    done = run(*command, "--load-cache", tmp_path / "saved")
    assert all(one["stats"]["cached_tokens"] for one in answer(done)["completions"])
    assert "were not used" not in done.err
    assert "were not used" in run(*command, "--load-cache", tmp_path / "saved", "--window", 16).err
