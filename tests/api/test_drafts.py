"""A draft and a lookup as callers ask for them: the same answers, early refusals, and all is given back."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.api import drafts
from elm_mlx.api.drafts import find_known
from elm_mlx.demo import demo_directory
from elm_mlx.engine import speculate
from elm_mlx.errors import InvalidRequest
from elm_mlx.library.local import Located

TEXT = "Once upon a time there was"
OPTIONS: list[dict[str, object]] = [{}, {"temperature": 0.9, "seed": 4}, {"temperature": 1.2, "top_p": 0.8, "seed": 0}]


@pytest.fixture(autouse=True)
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what this machine measures."""
    monkeypatch.setattr(speculate, "measure_costs", lambda *_: {2: 0.5, 4: 1.0})


@pytest.fixture(scope="module")
def small_demo() -> None:
    """Not here: the demo's draft proposes what the whole demo says."""


@pytest.fixture
def demo() -> Iterator[elm_mlx.LanguageModel]:
    """The built-in demo with its own draft."""
    with elm_mlx.load(draft="auto") as lm:
        yield lm


@pytest.mark.slow
def test_the_demo_and_its_draft_say_what_the_demo_says(demo: elm_mlx.LanguageModel) -> None:
    assert demo.draft == demo_directory() / "draft"
    with elm_mlx.load() as plain:
        for options in OPTIONS:
            found, expected = demo.generate(TEXT, 16, **options), plain.generate(TEXT, 16, **options)  # type: ignore[arg-type]
            assert (found.text, found.tokens) == (expected.text, expected.tokens)
            assert 0 < found.stats.accepted < found.stats.proposed
            assert (expected.stats.proposed, expected.stats.accepted) == (0, 0)
            assert "proposals right" in str(found.stats)
            assert "proposals right" not in str(expected.stats)
        together = demo.batch([TEXT, "The cat"], 8)
        assert [one.text for one in together] == [one.text for one in plain.batch([TEXT, "The cat"], 8)]


def test_a_lookup_finds_what_an_answer_repeats(openelm: Path) -> None:
    with elm_mlx.load(openelm) as lm:
        prompt = checkpoints.prompt(10)
        found = next(one for one in (lm.generate(prompt + prompt[:n], 120, lookup=True) for n in range(10))
                     if one.stats.accepted)  # fmt: skip
        assert found.stats.proposed >= found.stats.accepted
        plain = lm.generate(prompt, 120)
        again = lm.generate(prompt, 120, lookup=True)
        assert (plain.tokens, plain.stats.proposed) == (again.tokens, 0)


def test_a_draft_with_another_vocabulary_is_refused_before_weights_are_read(openelm: Path, tmp_path: Path) -> None:
    for folder in (openelm, demo_directory()):
        with pytest.raises(InvalidRequest, match=r"cannot be the draft of .* tokenizer has") as caught:
            elm_mlx.load(openelm if folder != openelm else None, draft=folder)
        assert "{draft}" in caught.value.advice
    narrow = tmp_path / "narrow"
    shutil.copytree(openelm, narrow)
    raw = json.loads((narrow / "config.json").read_text())
    (narrow / "config.json").write_text(json.dumps(raw | {"vocab_size": 600}))
    for weights in narrow.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(InvalidRequest, match=r"it has 600 ids, and the model 512"):
        elm_mlx.load(openelm, draft=narrow)


def test_a_model_may_be_the_draft_of_another_one_with_its_vocabulary(openelm: Path) -> None:
    prompt = checkpoints.prompt(12)
    with elm_mlx.load(openelm) as plain, elm_mlx.load(openelm, draft=openelm) as lm:
        found = lm.generate(prompt, 40)
        assert found.tokens == plain.generate(prompt, 40).tokens
        assert found.stats.proposed == found.stats.accepted > 20


@pytest.mark.parametrize(
    ("name", "directory", "draft"),
    [
        ("openelm-1.1b", "a", "openelm-270m"),
        ("openelm-3b-instruct", "a-Instruct", "openelm-270m-instruct"),
        ("openelm-450m", "a", None),
        ("llama-3.1-8b", "a", "llama-3.2-1b"),
        ("llama-3.2-1b", "a", None),
    ],
)
def test_auto_takes_the_known_draft_if_it_is_here_and_never_fetches(
    name: str, directory: str, draft: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elm_mlx.bench.shapes import SHAPES

    shape = {"openelm-3b-instruct": "openelm-3b", "llama-3.1-8b": "llama-3-8b"}.get(name, name)
    (tmp_path / directory).mkdir()
    (tmp_path / directory / "config.json").write_text(json.dumps(SHAPES[shape]))
    monkeypatch.setattr(drafts, "pull", lambda *_, **__: pytest.fail("it was fetched"))
    monkeypatch.setattr(drafts, "locate", lambda name: Located(Path("here") / name))
    assert find_known(tmp_path / directory).path == (Path("here") / draft if draft else None)
    monkeypatch.setattr(drafts, "locate", lambda name: None)
    found = find_known(tmp_path / directory)
    assert found.path is None
    assert found.notice
    assert ("elm-mlx pull" in found.notice) == (draft is not None)


def test_a_notice_says_why_there_is_no_draft(openelm: Path) -> None:
    with elm_mlx.load(openelm, draft="auto") as lm:
        assert lm.draft is None
        assert any("without one" in notice for notice in lm.notices)


@pytest.mark.parametrize("lookup", [1, "yes"])
def test_options_without_a_meaning_are_refused(demo: elm_mlx.LanguageModel, lookup: object) -> None:
    with pytest.raises(InvalidRequest, match="lookup is"):
        demo.generate(TEXT, 5, lookup=lookup)  # type: ignore[arg-type]


def test_a_window_and_proposals_go_together(demo: elm_mlx.LanguageModel) -> None:
    with elm_mlx.load() as plain:
        found = demo.generate(TEXT, 60, window=32)
        assert found.tokens == plain.generate(TEXT, 60, window=32).tokens
        assert found.stats.accepted


def test_closing_gives_the_draft_back() -> None:
    lm = elm_mlx.load(draft="auto")
    draft = lm._worker.call(lambda engine: weakref.ref(engine.speculation.draft.model))  # type: ignore[union-attr,arg-type]
    lm.generate(TEXT, 5)
    assert draft() is not None
    lm.close()
    gc.collect()
    assert draft() is None
