"""Llama's relatives under the one engine: batches, prefixes, windows, speculation and constraints give what the plain
loop does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from helpers import checkpoints, relatives
from helpers.engines import RandomRun, check_answers, draft_of, make_engine, plain_ids
from helpers.oracles import always
from helpers.shallow import shallow

import elm_mlx
from elm_mlx.config.generation import Sampling
from elm_mlx.engine.cache.kind import PLAIN, CacheKind
from elm_mlx.engine.request import Request
from elm_mlx.engine.speculate import Speculation

NAMES = ("mobilellm-ls", "mobillama", "bitnet")
RAW = dict(zip(NAMES, (relatives.MOBILELLM_LS, relatives.MOBILLAMA, relatives.BITNET), strict=True))
KINDS = (PLAIN, CacheKind(window=24, sinks=4, margin=8), CacheKind(key_bits=8, value_bits=8))


@pytest.fixture(scope="module", params=NAMES)
def relative(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> elm_mlx.LanguageModel:
    folder = tmp_path_factory.mktemp("relatives") / request.param
    return elm_mlx.load(checkpoints.write(folder, shallow(RAW[request.param])))


def test_a_random_crowd_gets_what_each_would_get_alone(relative: elm_mlx.LanguageModel) -> None:
    rng = random.Random(5)
    engine = make_engine(relative, positions=400, rows=3)
    check_answers(relative, RandomRun(engine, rng, 6).run())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_larger_crowds_with_caches_of_all_kinds(relative: elm_mlx.LanguageModel, seed: int) -> None:
    engine = make_engine(relative, positions=900, rows=4)
    check_answers(relative, RandomRun(engine, random.Random(seed), 20, KINDS).run())


@pytest.mark.parametrize("sampling", [Sampling(), pytest.param(Sampling(0.8, top_k=20), marks=pytest.mark.slow)])
def test_speculation_changes_no_id(relative: elm_mlx.LanguageModel, sampling: Sampling) -> None:
    speculation = Speculation(relative.model, relative.config.num_layers, draft_of(relative), costs=always(3))
    engine = make_engine(relative, speculation=speculation)
    asked = Request(tuple(checkpoints.prompt(12)), 16, sampling, seed=7)
    sequence = engine.submit(asked)
    while engine.has_work:
        engine.step()
    assert sequence.ids == plain_ids(relative, asked)


def test_a_cache_goes_to_a_file_and_back(relative: elm_mlx.LanguageModel, tmp_path: Path) -> None:
    prompt, file = checkpoints.prompt(70), tmp_path / "prompt.safetensors"
    expected = relative.generate(prompt, max_tokens=8)
    assert relative.save_cache(prompt, file) == len(prompt)
    relative.forget_prefixes()
    relative.load_cache(file)
    again = relative.generate(prompt, max_tokens=8)
    assert again.text == expected.text
    assert again.stats.cached_tokens == len(prompt) - 1
