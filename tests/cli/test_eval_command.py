"""`elm-mlx eval`: what it says before any model is loaded. tests/parity has it ask questions."""

from __future__ import annotations

import json

import pytest
from helpers.command_line import answer, run

from elm_mlx.evaluate import tasks


def result(*right: float) -> dict:
    """A result of one task, with what each question came to."""
    rows = [{"id": at, "question": f"q{at}", "metrics": {"acc": value}} for at, value in enumerate(right)]
    task = {"version": 1, "few_shot": 0, "metrics": {"acc": {"value": sum(right) / len(right)}}}
    settings = {"few_shot": None, "limit": None, "chat": False, "seed": 1}
    return {"form": "elm-mlx eval 1", "settings": settings, "tasks": {"t": task}, "questions": {"t": rows}}


def test_two_results_are_compared_without_lm_eval(tmp_path) -> None:
    places = [tmp_path / "a.json", tmp_path / "b.json"]
    for place, right in zip(places, ([1.0, 0.0, 0.0], [1.0, 1.0, 0.0]), strict=True):
        place.write_text(json.dumps(result(*right)))
    shown = run("eval", "--compare", *places)
    assert "B - A +0.3333, 95 % between" in shown.out
    assert "only B right: 1, only A: 0" in shown.out
    assert "may be chance" in shown.out
    (one,) = answer(run("eval", "--compare", *places, "--json"))["differences"]
    assert one["chance"] == 1.0


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "Give --tasks"), (["--tasks", "x", "--compare", "a", "b"], "--tasks asks a model. Leave one out"),
    (["--tasks", "x", "--answers", "f", "--fresh"], "--fresh keeps no answers, and --answers"),
    (["--compare", "nowhere.json", "nowhere.json"], "no nowhere.json"),
])  # fmt: skip
def test_what_means_nothing_is_refused(arguments, message) -> None:
    refusal = run("eval", *arguments)
    assert refusal.code in (2, 66)
    assert message in refusal.err


def test_without_the_extra_its_name_is_told(monkeypatch) -> None:
    monkeypatch.setattr(tasks, "find_spec", lambda _: None)
    refusal = run("eval", "--tasks", "hellaswag")
    assert refusal.code == 66
    assert "pip install 'elm-mlx[eval]'; from a checkout: pip install -e '.[eval]'" in refusal.err
