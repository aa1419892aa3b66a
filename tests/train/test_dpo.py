"""Pairs of answers: the chosen one becomes likelier against the rejected one than it was in the base."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers.training import PAIRS, contents, tiny, write_rows

from elm_mlx.errors import InvalidRequest
from elm_mlx.train import data as data_module
from elm_mlx.train import train
from elm_mlx.train.dpo import margins
from elm_mlx.train.job import Step

SHORT: dict[str, Any] = {"loss": "dpo", "batch_size": 2, "steps": 4, "save_every": 2, "rank": 2, "learning_rate": 1e-3}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_rows(tmp_path / "data" / "train.jsonl", PAIRS)
    return tmp_path / "data"


def losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("lora", "dora")), "full"])
def test_a_training_begins_without_a_preference_and_gets_one(data: Path, tmp_path: Path, kind: str) -> None:
    """The first loss is that of a model that is its own reference: log 2."""
    write_rows(data / "valid.jsonl", PAIRS)
    rank = {} if kind == "full" else {"rank": 2}
    asked = {name: value for name, value in SHORT.items() if name != "rank"} | rank | {"steps": 8, "kind": kind}
    heard: list[Step] = []
    done = train(data, tmp_path / "out", tiny(tmp_path / "base"), report=heard.append, **asked)
    first, last = losses(tmp_path / "out")[0], heard[-1]
    assert first["valid_loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert done.valid_loss is not None
    assert done.valid_loss < first["valid_loss"]
    assert last.valid_accuracy == 1
    assert last.valid_margin is not None
    assert last.valid_margin > 0


def test_the_loss_is_the_published_formula() -> None:
    logprobs, reference = mx.array([-3.0, -5.0, -4.0, -4.5]), mx.array([-3.5, -4.0, -4.0, -4.0])
    expected = [0.1 * ((-3.0 + 3.5) - (-4.0 + 4.0)), 0.1 * ((-5.0 + 4.0) - (-4.5 + 4.0))]
    assert margins(logprobs, reference, 0.1).tolist() == pytest.approx(expected)


def test_a_stopped_training_goes_on_to_the_same_bytes_with_the_same_reference(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny(tmp_path / "base")

    def stop(step: Step) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    train(data, tmp_path / "whole", base, **SHORT)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "stopped", base, report=stop, **SHORT)
    monkeypatch.setattr(data_module, "compute_reference", lambda *_: pytest.fail("It was computed again."))
    train(data, tmp_path / "stopped", base, resume=True, **SHORT)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_other_pairs_do_not_go_on_and_leave_what_was_kept(data: Path, tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    train(data, tmp_path / "out", base, **SHORT | {"steps": 1})
    before = contents(tmp_path / "out")
    write_rows(data / "train.jsonl", PAIRS[1:])
    with pytest.raises(InvalidRequest, match="another training: data"):
        train(data, tmp_path / "out", base, resume=True, **SHORT)
    assert contents(tmp_path / "out") == before


@pytest.mark.slow
def test_a_prompt_may_be_messages_and_answers_too(data: Path, tmp_path: Path) -> None:
    """A chat as text or as messages is the same pair."""
    texts = [{"prompt": "Who?", "chosen": "A fox.", "rejected": "A hen."}]
    messages = [{"prompt": [{"role": "user", "content": "Who?"}],
                 "chosen": [{"role": "assistant", "content": "A fox."}], "rejected": "A hen."}]  # fmt: skip
    base, found = tiny(tmp_path / "base"), []
    for name, rows in (("texts", texts), ("messages", messages)):
        write_rows(data / "train.jsonl", rows)
        train(data, tmp_path / name, base, chat_template="zephyr", **SHORT | {"steps": 2})
        found.append(losses(tmp_path / name))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "A", "chosen": "b"}, "has no rejected"),
        ({"prompt": "A", "chosen": "b", "rejected": "b"}, "has one answer twice"),
        ({"prompt": "A", "chosen": "b", "rejected": 3}, "has rejected 3"),
        (
            {"prompt": "A", "chosen": "b", "rejected": [{"role": "user"}]},
            "has rejected .* of the assistant",
        ),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "has the prompt 3"),
        ({"text": "A"}, "has no prompt and no chosen and no rejected"),
    ],
)
def test_a_bad_row_is_refused_by_its_line(data: Path, tmp_path: Path, row: dict[str, Any], why: str) -> None:
    write_rows(data / "train.jsonl", [*PAIRS, row])
    with pytest.raises(InvalidRequest, match=f"line 4 {why}"):
        train(data, tmp_path / "out", tiny(tmp_path / "base"), **SHORT)
