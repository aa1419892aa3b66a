"""How a model is sampled without options: its file, else Apple's recommendation for Apple's own models, else greedy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.recommended import as_apples, say_sampling

import elm_mlx
from elm_mlx.api.defaults import Defaults, read_defaults
from elm_mlx.bench.ours import Ours
from elm_mlx.config.generation import Sampling
from elm_mlx.convert.verify import verify
from elm_mlx.demo import demo_directory
from elm_mlx.device.thread import on_device
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence
from elm_mlx.library.names import known_models
from elm_mlx.library.recommended import RECOMMENDED, recommendation_for, repository_of

APPLES = Sampling(repetition_penalty=1.2)
# As the files of Apple's repositories are.
SILENT = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "transformers_version": "4.39.3"}


def test_the_recommendation_is_for_apples_eight_repositories_and_no_other() -> None:
    assert len(RECOMMENDED) == 8
    originals = {model.original.lower() for name, model in known_models().items() if name.startswith("openelm")}
    assert set(RECOMMENDED) == originals


@pytest.mark.parametrize("repository", ["apple/OpenELM-450M", "apple/OpenELM-1_1B-Instruct", "Apple/openelm-3b"])
def test_a_model_made_from_apples_and_silent_about_sampling_has_apples_values(
    openelm: Path, tmp_path: Path, repository: str
) -> None:
    directory = say_sampling(as_apples(openelm, tmp_path / "m", repository), **SILENT)
    origin = "recommendation, Apple's for OpenELM"
    assert read_defaults(directory) == Defaults(
        APPLES, dict.fromkeys(["temperature", "repetition_penalty", "raw"], origin)
    )


@pytest.mark.parametrize(
    ("said", "sampling", "origins"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, Sampling(0.6, 0, 0.9), {"temperature", "top_p"}),
        ({"do_sample": True}, Sampling(1.0), {"temperature"}),
        ({"do_sample": False}, Sampling(), {"temperature"}),
        ({"top_k": 50}, Sampling(), set()),
        ({"do_sample": "perhaps"}, Sampling(), {"temperature"}),
    ],
)
def test_a_file_that_says_anything_of_sampling_counts_alone(
    openelm: Path, tmp_path: Path, said: dict[str, Any], sampling: Sampling, origins: set[str]
) -> None:
    found = read_defaults(say_sampling(as_apples(openelm, tmp_path / "m"), **said))
    assert (found.sampling, set(found.origins)) == (sampling, origins)
    assert set(found.origins.values()) <= {"the model's generation_config.json"}


@pytest.mark.parametrize("record", ["mlx-community/OpenELM-450M", "someone/OpenELM-450M-tuned", None, 5, ["apple"]])
def test_a_model_of_anybody_else_has_none_of_it(openelm: Path, tmp_path: Path, record: object) -> None:
    assert read_defaults(as_apples(openelm, tmp_path / "m", record)) == Defaults(Sampling(), {})


def test_a_directory_that_does_not_say_where_it_is_from_has_none_and_the_demo_neither(
    openelm: Path, tmp_path: Path
) -> None:
    assert read_defaults(openelm).sampling == read_defaults(demo_directory()).sampling == Sampling()
    converted = elm_mlx.convert.convert(openelm, tmp_path / "OpenELM-450M").output
    assert recommendation_for(converted) is None


def test_a_damaged_record_of_a_conversion_keeps_no_model_from_running(openelm: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(openelm, tmp_path / "m"))
    (directory / "conversion.json").write_text("{", encoding="utf-8")
    assert repository_of(directory) is None
    assert elm_mlx.load(directory).generate("Hi", 2).tokens


def test_a_place_in_a_cache_names_the_repository_too(openelm: Path, tmp_path: Path) -> None:
    hub = tmp_path / "models--apple--OpenELM-270M" / "snapshots" / "abc"
    own = tmp_path / "models" / "apple--OpenELM-270M" / "published-abc"
    for place in (hub, own):
        shutil.copytree(openelm, place)
        assert repository_of(place) == "apple/OpenELM-270M"
        assert read_defaults(place).sampling == APPLES


# Who uses it


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Sampling]:
    """The sampling of every request that an engine gets from now on."""
    seen: list[Sampling] = []
    submit = Engine.submit

    def note(engine: Engine, request: Request) -> Sequence:
        seen.append(request.sampling)
        return submit(engine, request)

    monkeypatch.setattr(Engine, "submit", note)
    return seen


def test_every_way_to_ask_uses_it_but_plain_and_what_is_given(
    openelm: Path, tmp_path: Path, asked: list[Sampling]
) -> None:
    with elm_mlx.load(as_apples(openelm, tmp_path / "m")) as lm:
        asked.clear()  # of loading
        lm.generate("Hi", 1)
        list(lm.stream("Hi", 1))
        list(lm.batch(["Hi"], 1))
        assert asked == [APPLES] * 3
        lm.generate("Hi", 1, plain=True)
        lm.generate("Hi", 1, repetition_penalty=1.0)
        assert asked[3:] == [Sampling()] * 2
        lm.generate("Hi", 1, temperature=0.8)
        assert asked[5] == Sampling(temperature=0.8, repetition_penalty=1.2)


def test_the_recommended_penalty_changes_what_a_model_says(openelm: Path, tmp_path: Path) -> None:
    with elm_mlx.load(as_apples(openelm, tmp_path / "m")) as lm:
        own, plain = lm.generate("Hi", 24).tokens, lm.generate("Hi", 24, plain=True).tokens
        assert own == lm.generate("Hi", 24, plain=True, repetition_penalty=1.2).tokens != plain


def test_bench_verify_and_logits_never_use_it(openelm: Path, tmp_path: Path, asked: list[Sampling]) -> None:
    apples = as_apples(openelm, tmp_path / "m")
    with elm_mlx.load(apples) as lm, elm_mlx.load(openelm) as other:
        asked.clear()  # of loading
        ids = checkpoints.prompt(8)
        assert mx.array_equal(lm.logits(ids), other.logits(ids))
        verify(apples, openelm, tokens=8)
        assert asked == []
        on_device(lambda _: list(Ours(lm).decode(ids, 2)))
        assert asked == [Sampling()]
