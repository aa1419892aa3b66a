"""Adapters beside a loaded model: named in a call, several at once, each answer as alone, and none for the others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.adapters import config_of, made_sums, merged_copy, write_sums

import elm_mlx
from elm_mlx.errors import InvalidRequest, NotEnoughMemory, NotFound
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.store.adapters.write import PEFT, Written, write_adapter

PROMPT = checkpoints.prompt(40)
NAMES = "one", "two"
each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)


@pytest.fixture(scope="session")
def folders(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters, in both layouts, and checkpoints that have them merged."""
    root = tmp_path_factory.mktemp("adapters")
    one, two = made_sums(source, 1), made_sums(source, 2, dora=True, rank=2)
    merged_copy(source, root / "merged one", one)
    merged_copy(source, root / "merged two", two)
    return {
        "one": write_sums(root / "one", source, one),
        "two": write_sums(root / "two", source, two, PEFT),
        "merged one": root / "merged one",
        "merged two": root / "merged two",
    }


@pytest.fixture
def adapted(source: Path, folders: dict[str, Path]) -> Iterator[elm_mlx.LanguageModel]:
    """A model with both adapters."""
    with elm_mlx.load(source) as lm:
        for name in NAMES:
            lm.load_adapter(name, folders[name])
        yield lm


@each_family
def test_answers_are_those_of_the_merged_model_and_without_an_adapter_those_of_the_plain_one(
    source: Path, folders: dict[str, Path], adapted: elm_mlx.LanguageModel
) -> None:
    assert {name: (one.kind, one.rank) for name, one in adapted.adapters.items()} == {
        "one": ("lora", 4),
        "two": ("dora", 2),
    }
    with elm_mlx.load(source) as plain:
        assert adapted.generate(PROMPT, 20).tokens == plain.generate(PROMPT, 20).tokens
        assert mx.array_equal(adapted.logits(PROMPT), plain.logits(PROMPT))
    for name in NAMES:
        with elm_mlx.load(folders[f"merged {name}"]) as merged:
            assert adapted.generate(PROMPT, 20, adapter=name).tokens == merged.generate(PROMPT, 20).tokens
            assert mx.allclose(adapted.logits(PROMPT, adapter=name), merged.logits(PROMPT), atol=2e-3)


@each_family
def test_rows_with_different_adapters_are_answered_together_as_each_alone(adapted: elm_mlx.LanguageModel) -> None:
    asked = [(adapter, checkpoints.prompt(30 + n, n)) for n in range(2) for adapter in (None, *NAMES)]
    alone = [adapted.generate(prompt, 24, adapter=adapter, reuse=False).tokens for adapter, prompt in asked]
    streams = [adapted.submit(prompt, 24, adapter=adapter) for adapter, prompt in asked]
    assert [stream.result().tokens for stream in streams] == alone


@pytest.mark.parametrize("source", checkpoints.FAMILIES[:1], indirect=True)
def test_keys_and_values_of_one_adapter_are_never_another_s(adapted: elm_mlx.LanguageModel) -> None:
    cached = [adapted.generate(PROMPT, 4, adapter=name).stats.cached_tokens for name in ("one", None, "two", "one")]
    assert cached[:3] == [0, 0, 0]
    assert cached[3] > 0
    running = adapted.submit(PROMPT, 60, adapter="one")
    next(running)
    assert adapted.generate(PROMPT, 4, adapter=None).stats.cached_tokens in (0, len(PROMPT) - 1)
    running.cancel()


@pytest.mark.parametrize("source", checkpoints.FAMILIES[:1], indirect=True)
def test_an_unloaded_adapter_serves_what_it_began_and_its_name_is_free(
    adapted: elm_mlx.LanguageModel, folders: dict[str, Path]
) -> None:
    expected = adapted.generate(PROMPT, 60, adapter="one", reuse=False).tokens
    running = adapted.submit(PROMPT, 60, adapter="one", reuse=False)
    next(running)
    adapted.unload_adapter("one")
    with pytest.raises(InvalidRequest, match="no adapter 'one'; loaded are 'two'"):
        adapted.generate(PROMPT, 4, adapter="one")
    adapted.load_adapter("one", folders["two"])
    other = adapted.generate(PROMPT, 20, adapter="one").tokens
    assert running.result().tokens == expected
    assert other == adapted.generate(PROMPT, 20, adapter="two").tokens


@pytest.mark.parametrize("source", checkpoints.FAMILIES[:1], indirect=True)
def test_every_call_takes_an_adapter(adapted: elm_mlx.LanguageModel) -> None:
    expected = adapted.generate(PROMPT, 8, adapter="one").tokens
    assert [one.tokens for one in adapted.completions(PROMPT, 2, 8, adapter="one")] == [expected] * 2
    assert [one.tokens for one in adapted.batch([PROMPT], 8, adapter="one")] == [expected]
    assert adapted.stream(PROMPT, 8, adapter="one").result().tokens == expected
    assert adapted.generate(PROMPT, 8, adapter="one", lookup=True).tokens == expected
    for ask in (
        lambda: adapted.generate(PROMPT, adapter="none"),
        lambda: adapted.batch([PROMPT], adapter="none"),
        lambda: adapted.logits(PROMPT, adapter="none"),
        lambda: adapted.generate(PROMPT, adapter=7),  # type: ignore[arg-type]
        lambda: adapted.unload_adapter("none"),
    ):
        with pytest.raises(InvalidRequest, match="There is no adapter"):
            ask()


@pytest.mark.parametrize("source", checkpoints.FAMILIES[:1], indirect=True)
def test_a_draft_proposes_and_the_model_with_its_adapter_judges(source: Path, folders: dict[str, Path]) -> None:
    with elm_mlx.load(source, draft=source) as lm:
        lm.load_adapter("one", folders["one"])
        with elm_mlx.load(folders["merged one"]) as merged:
            assert lm.generate(PROMPT, 30, adapter="one").tokens == merged.generate(PROMPT, 30).tokens


@pytest.mark.parametrize("source", checkpoints.FAMILIES[:1], indirect=True)
def test_what_cannot_be_loaded_is_refused_and_changes_nothing(
    source: Path, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, other = config_of(source), Written(made_sums(source), Base("another", "0" * 64))
    write_adapter(tmp_path / "other", other, config)
    with elm_mlx.load(source) as lm:
        before = lm.generate(PROMPT, 8).tokens
        with pytest.raises(NotFound):
            lm.load_adapter("a", tmp_path / "nowhere")
        with pytest.raises(InvalidRequest, match=r"other weights.*give force"):
            lm.load_adapter("a", tmp_path / "other")
        with monkeypatch.context() as patch:
            patch.setattr("elm_mlx.api.adapters.cache_room", lambda *_: 1000)
            with pytest.raises(NotEnoughMemory, match="and 1"):
                lm.load_adapter("a", folders["one"])
        for name in ("", 3, "x" * 101):
            with pytest.raises(InvalidRequest, match="name is"):
                lm.load_adapter(name, folders["one"])  # type: ignore[arg-type]
        assert lm.adapters == {}
        lm.load_adapter("a", tmp_path / "other", force=True)
        with pytest.raises(InvalidRequest, match="loaded already"):
            lm.load_adapter("a", folders["one"])
        assert lm.generate(PROMPT, 8).tokens == before


@pytest.mark.parametrize("source", checkpoints.FAMILIES[:1], indirect=True)
def test_a_file_of_keys_and_values_serves_the_adapter_that_it_was_saved_with_alone(
    source: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    with elm_mlx.load(source) as lm:
        lm.load_adapter("one", folders["one"])
        expected = lm.generate(PROMPT, 8, adapter="one", reuse=False).tokens
        lm.save_cache(PROMPT, tmp_path / "with", adapter="one")
        lm.save_cache(PROMPT, tmp_path / "without")
    with elm_mlx.load(source) as lm:
        lm.load_adapter("same", folders["one"])  # by another name, which does not matter
        lm.load_adapter("two", folders["two"])
        for file, adapter, words in (
            ("with", None, "saved with an adapter"), ("with", "two", "saved with another adapter"),
            ("without", "two", "saved without an adapter"), ("with", "three", "no adapter 'three'"),
        ):  # fmt: skip
            with pytest.raises(InvalidRequest, match=words):
                lm.load_cache(tmp_path / file, adapter=adapter)
        assert lm.load_cache(tmp_path / "with", adapter="same") == len(PROMPT)
        assert lm.generate(PROMPT, 8).stats.cached_tokens == 0
        assert lm.generate(PROMPT, 8, adapter="two").stats.cached_tokens == 0
        done = lm.generate(PROMPT, 8, adapter="same")
        assert (done.tokens, done.stats.cached_tokens) == (expected, len(PROMPT) - 1)


@pytest.mark.parametrize("source", checkpoints.FAMILIES[:1], indirect=True)
def test_any_thread_may_load_and_unload_while_others_are_answered(source: Path, folders: dict[str, Path]) -> None:
    with elm_mlx.load(source) as lm:
        lm.load_adapter("one", folders["one"])
        expected = lm.generate(PROMPT, 12, adapter="one").tokens

        def come_and_go(number: int) -> None:
            lm.load_adapter(f"guest {number}", folders["two"])
            lm.generate(PROMPT, 4, adapter=f"guest {number}")
            lm.unload_adapter(f"guest {number}")

        with ThreadPoolExecutor(4) as pool:
            guests = [pool.submit(come_and_go, number) for number in range(6)]
            answers = [pool.submit(lm.generate, PROMPT, 12, adapter="one") for _ in range(6)]
            assert {tuple(answer.result().tokens) for answer in answers} == {tuple(expected)}
            for guest in guests:
                guest.result()
        assert list(lm.adapters) == ["one"]
