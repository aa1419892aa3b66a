"""`--draft` and `--lookup` change the speed of an answer alone, and are judged before weights are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.command_line import answer, run

from elm_mlx.engine import speculate

ASK = ("generate", "--max-tokens", 24, "--json")


@pytest.fixture(autouse=True)
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what this machine measures."""
    monkeypatch.setattr(speculate, "measure_costs", lambda *_: {2: 0.5})


def test_the_text_is_the_same_with_a_draft_or_a_lookup() -> None:
    plain, draft, lookup = (answer(run(*ASK, *more)) for more in ((), ("--draft", "auto"), ("--lookup",)))
    assert plain["text"] == draft["text"] == lookup["text"]
    assert plain["stats"]["proposed"] == 0
    assert 0 < draft["stats"]["accepted"] <= draft["stats"]["proposed"]


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("--draft auto --lookup", "Leave --draft or --lookup out."),
        ("--draft nowhere", "There is no model 'nowhere'"),
    ],
)
def test_what_would_propose_nothing_is_refused_and_a_wish_for_it_yields(
    monkeypatch: pytest.MonkeyPatch, typed: str, complaint: str
) -> None:
    for more in ((), ("--show-config",)):
        done = run("generate", *typed.split(), *more)
        assert (done.code in (2, 66), done.out, complaint in done.err) == (True, "", True), done.err
    monkeypatch.setenv("ELM_MLX_LOOKUP", "1")
    done = run("generate", "--max-tokens", 2, "--draft", "auto")
    assert (done.code, "ELM_MLX_LOOKUP=1 is ignored" in done.err) == (0, True)


def test_a_draft_of_another_vocabulary_is_an_error_if_typed_and_a_note_if_wished(
    openelm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = run(*ASK, "--draft", openelm)
    assert typed.code
    assert "cannot be the draft of" in typed.err
    assert "--draft" in typed.err
    monkeypatch.setenv("ELM_MLX_DRAFT", str(openelm))
    wished = run(*ASK)
    assert wished.err.count("DRAFT=") == 1
    assert answer(wished)["stats"]["proposed"] == 0
