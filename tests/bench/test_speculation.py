"""The benchmark of speculation: texts that are what they are said to be, and results that follow from their samples."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import speculation

import elm_mlx
from elm_mlx.engine.lookup import Lookup

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
REPORTS = [path for path in RESULTS.glob("*.json") if speculation.SCHEMA in path.read_text(encoding="utf-8")[:200]]


def test_a_result_has_the_ratios_of_its_pairs() -> None:
    found = speculation.result("demo-1", [(2.0, 1.0), (3.0, 1.0), (2.0, 2.0)])
    assert (found["ratio"], found["min"], found["max"], found["bar"]) == (2.0, 1.0, 3.0, 1.3)


def test_the_copying_text_copies_and_a_lookup_finds_it() -> None:
    text, lookup, right = speculation.copying(), Lookup(), 0
    assert len(text) == speculation.PROMPT + speculation.ANSWER
    for place in range(speculation.PROMPT, len(text)):
        lookup.read(text[:place])
        right += lookup.propose(1) == [text[place]]
    assert right > 0.8 * speculation.ANSWER


def test_a_scripted_model_says_its_text_plainly_and_in_rounds() -> None:
    text = [5, 9, 2, 7, 1, 3, 8, 4]
    with elm_mlx.load() as lm:
        from elm_mlx.engine.cache.kv import make_cache

        model: Any = speculation.Scripted(lm.model, text)
        cache = make_cache(lm.config.num_layers, 20)
        said = [int(mx.argmax(model.head(model.last_hidden(mx.array([text[:3]]), cache))).item())]
        said += mx.argmax(model.head(model.few_hidden(mx.array([text[3:6]]), cache))[0], axis=-1).tolist()
        said += mx.argmax(model.head(model.last_hidden(mx.array([text[6:7]]), cache)), axis=-1).tolist()
    assert said == text[3:]


def test_what_lies_in_results_follows_from_its_samples() -> None:
    for one in [one for path in REPORTS for one in json.loads(path.read_text(encoding="utf-8"))["results"]]:
        assert one["experiment"] in speculation.BARS
        ratios = [plain / ours for plain, ours in zip(one["plain_s"], one["proposals_s"], strict=True)]
        assert len(ratios) >= 5
        assert one["ratio"] == pytest.approx(statistics.median(ratios))
