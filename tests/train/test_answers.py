"""One model's answers, as `elm-mlx batch` writes them, teach another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import run
from helpers.training import tiny, write_rows

from elm_mlx.errors import InvalidRequest
from elm_mlx.train.answers import CUT, EMPTY, FAILED, is_answer, row_of

PLAIN: dict[str, Any] = {"id": 1, "text": "A fox.", "tokens": [4], "finish_reason": "stop", "error": None}
CHAT = [{"role": "user", "content": "Who?"}]


def openai(**choice: Any) -> dict[str, Any]:
    choice |= {"finish_reason": "stop"}
    return {"id": "b", "custom_id": "a", "response": {"body": {"choices": [choice]}}, "error": None}


@pytest.mark.parametrize(
    ("record", "row"),
    [
        (PLAIN | {"prompt": "Who?"}, {"prompt": "Who?", "completion": "A fox.", "raw": False}),
        (PLAIN | {"prompt": "A", "raw": True, "completion": " fox."},
         {"prompt": "A", "completion": " fox.", "raw": True}),
        (PLAIN | {"messages": CHAT}, {"messages": [*CHAT, {"role": "assistant", "content": "A fox."}]}),
        (openai(message={"content": "A fox."}) | {"messages": CHAT},
         {"messages": [*CHAT, {"role": "assistant", "content": "A fox."}]}),
        (openai(text="fox.") | {"prompt": "A", "raw": True, "completion": " fox."},
         {"prompt": "A", "completion": " fox.", "raw": True}),
    ],
)  # fmt: skip
def test_an_answer_with_its_request_is_a_row(record: dict[str, Any], row: dict[str, Any]) -> None:
    assert is_answer(record)
    assert row_of(record) == (row, None)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (PLAIN, "without its prompt. Run `elm-mlx batch --with-prompts`"),
        (openai(text="A"), "without its prompt"),
        (PLAIN | {"prompt": [1, 2]}, "token ids"),
        (openai(text="A") | {"response": {}}, "not an answer of"),
    ],
)
def test_what_cannot_teach_is_refused(record: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        row_of(record)


def test_failures_and_answers_that_were_cut_off_are_left_out() -> None:
    assert row_of(PLAIN | {"error": "No."})[1] == FAILED
    assert row_of(PLAIN | {"finish_reason": "length", "prompt": "A"})[1] == CUT


def test_an_empty_answer_is_left_out() -> None:
    assert row_of(PLAIN | {"text": "", "prompt": "A"})[1] == EMPTY


@pytest.mark.follows("elm-mlx batch", "elm-mlx batch --with-prompts", "elm-mlx train")
@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "openai"])
def test_a_large_models_answers_teach_a_small_one_in_two_commands(tmp_path: Path, form: str) -> None:
    """The demo's stories end by themselves; one that does not is left out, and that is said."""
    asked: list[dict[str, Any]] = [
        {"id": f"r{number}", "prompt": f"One day a {animal}"} for number, animal in enumerate(["fox", "hen", "bear"])
    ] + [{"id": "cut", "prompt": "One day", "max_tokens": 3}]
    if form == "openai":
        asked = [{"custom_id": one["id"], "body": one | {"id": None}} for one in asked]
        for one in asked:
            del one["body"]["id"]
    write_rows(tmp_path / "requests.jsonl", asked)
    answers = tmp_path / "data" / "train.jsonl"
    answers.parent.mkdir()
    for _ in range(2):  # the second one finds all answers there
        done = run("batch", tmp_path / "requests.jsonl", "-o", answers, "--with-prompts", "-n", 300)
        assert done.code == 0, done.err
    assert "Lines written before: 4" in done.err
    completions = [json.loads(line)["completion"] for line in answers.read_text().splitlines()]
    assert any(one.startswith(" ") for one in completions)  # the blank that an answer's text leaves out
    student = tiny(tmp_path / "student")
    done = run("train", "--model", student, "--data", answers.parent, "-o", tmp_path / "out", "--mask-prompt", "--json")
    assert done.code == 0, done.err
    assert "1 answers are left out: they were cut off by max_tokens" in done.err
    assert json.loads(done.out.splitlines()[-1])["ended"] == "steps"
