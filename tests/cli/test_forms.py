"""`elm-mlx generate` with a form for the answer, and lines of a batch that ask for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.command_line import answer, run

SCHEMA = '{"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}'


def test_a_schema_is_a_file_or_the_text_itself_and_json_shows_the_value(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(SCHEMA)
    for given in (SCHEMA, tmp_path / "schema.json"):
        spoken = answer(run("generate", "-q", "--schema", given, "--json"))
        assert spoken["parsed"] == json.loads(spoken["text"])
        assert len(spoken["parsed"]) == 2


def test_choices_regular_expressions_and_grammars_hold_the_answer(tmp_path: Path) -> None:
    (tmp_path / "say.lark").write_text('start: "I " ("see" | "hear")')
    assert run("generate", "-q", "--choice", "yes", "--choice", "no, not").out in ("yes\n", "no, not\n")
    assert run("generate", "-q", "--regex", "[0-9]x").out[1:] == "x\n"
    assert run("generate", "-q", "--grammar", tmp_path / "say.lark").out in ("I see\n", "I hear\n")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("--regex", "a", "--choice", "b"), "Leave all but one of --regex, --choice out."),
        (("--schema", "nowhere.json"), "there is no file nowhere.json"),
        (("--schema", '{"not": {}}'), '"not" at #'),
        (("--schema", "."), "it is a folder"),
        (("--regex", "["), "invalid regex"),
    ],
)
def test_what_is_no_form_is_an_error_of_usage(typed: tuple[str, ...], words: str) -> None:
    done = run("generate", *typed)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


def test_a_prompt_is_saved_and_loaded_beside_a_form(tmp_path: Path) -> None:
    prompt = (
        "generate",
        "-q",
        "-p",
        "It is a long way to the sea, and a longer one back home. " * 4,
        "--choice",
        "yes",
    )
    assert run(*prompt, "--save-cache", tmp_path / "p.safetensors").out == "yes\n"
    assert run(*prompt, "--load-cache", tmp_path / "p.safetensors").out == "yes\n"


def test_lines_of_a_batch_may_ask_for_a_form(tmp_path: Path) -> None:
    inner = {"type": "json_schema", "json_schema": {"name": "n", "schema": json.loads(SCHEMA)}}
    lines = [
        {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "It is", "response_format": inner}},
        {"id": "b", "prompt": "It is", "choices": ["yes"]},
        {"id": "c", "prompt": "It is", "schema": {"not": {}}},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run("batch", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")
    assert done.code == 1
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    by_id = {line.get("custom_id", line.get("id")): line for line in found}
    text = by_id["a"]["response"]["body"]["choices"][0]["text"]
    assert len(json.loads(text)) == 2
    assert by_id["b"]["text"] == "yes"
    assert '"not" at #' in by_id["c"]["error"]


def test_an_answer_that_was_cut_off_amid_its_form_is_named() -> None:
    words = ("generate", "-p", "It is", "--temperature", 0, "--regex")
    assert "The answer was cut off by --max-tokens, and may lack the form." in run(*words, "[a-z ]+", "-n", 3).err
    assert "2 of 2 answers were cut off" in run(*words, "[a-z ]+", "-n", 3, "--completions", 2).err
    assert "cut off" not in run(*words, "[0-9]x").err
