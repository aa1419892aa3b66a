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
