"""Short prompts that wait together are read in one pass, and each answer is what it would be alone."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, engines
from helpers.engines import check_answers, make_engine
from helpers.families import second_family_slow

import elm_mlx
from elm_mlx.config.generation import Sampling
from elm_mlx.engine.cache.kind import CacheKind
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import CANCELLED
from elm_mlx.engine.together import MOST_IDS, read_together

one_family = pytest.mark.parametrize("source", ["openelm"], indirect=True)


def asking(length: int, seed: int, tokens: int = 12, **options: object) -> Request:
    return Request(tuple(checkpoints.prompt(length, seed=seed)), tokens, seed=seed, **options)  # type: ignore[arg-type]


@second_family_slow
def test_a_prompt_leaves_the_same_logits_and_cache_together_as_alone(lm: elm_mlx.LanguageModel) -> None:
    prompts = [checkpoints.prompt(length, seed=length) for length in (1, 9, 4, 14)]
    held = [checkpoints.prompt(length + 1, seed=length)[1:] for length in (3, 0, 7, 2)]
    pairs = [[make_cache(lm.config.num_layers, 32) for _ in range(2)] for _ in prompts]
    for before, pair in zip(held, pairs, strict=True):
        for cache in pair:
            if before:
                lm.model.hidden(mx.array([before]), cache)
    together = read_together(lm.model, prompts, [pair[0] for pair in pairs])
    for row, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True)):
        alone = lm.model.head(lm.model.last_hidden(mx.array([prompt]), pair[1]))
        assert np.allclose(together[row], alone[0], atol=1e-4)
        assert [layer.offset for layer in pair[0]] == [layer.offset for layer in pair[1]]
        for one, other in zip(*pair, strict=True):
            for mine, whole in zip(one.arrays(), other.arrays(), strict=True):
                assert np.allclose(mine[:, :, : one.offset], whole[:, :, : one.offset], atol=1e-4)


@second_family_slow
def test_what_waits_together_is_read_in_one_step_and_answered_as_alone(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm)
    requests = [
        asking(9, 1),
        asking(14, 2, sampling=Sampling(0.9, top_k=30), logprobs=2),
        asking(3, 3, cache=CacheKind(window=8, margin=8)),
        asking(11, 4, sampling=Sampling(repetition_penalty=1.3)),
    ]
    sequences = [engine.submit(request) for request in requests]
    news = engine.step()
    assert set(news) == set(sequences)
    assert [one.read for one in sequences] == [9, 14, 3, 11]
    while engine.has_work:
        engine.step()
    check_answers(lm, sequences)


@one_family
def test_a_pass_has_so_many_ids_at_most_and_nobody_is_passed_over(lm: elm_mlx.LanguageModel) -> None:
    third = MOST_IDS // 3
    engine = make_engine(lm, chunk=MOST_IDS)
    short = [engine.submit(asking(third, seed)) for seed in range(4)]
    long = engine.submit(asking(MOST_IDS // 2 + 1, 5))
    last = engine.submit(asking(2, 6))
    begun = []
    for _ in range(4):
        before = set(engine.waiting)
        engine.step()
        begun.append([one for one in (*short, long, last) if one in before and one not in engine.waiting])
    assert begun == [short[:3], short[3:], [long], [last]]


@one_family
def test_a_chunk_bounds_what_is_read_together(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, chunk=16, streams=())
    for seed in range(3):
        engine.submit(asking(8, seed))
    engine.step()
    assert len(engine.waiting) == 1


@one_family
def test_together_no_more_begin_than_the_budget_and_the_rows_have_room_for(lm: elm_mlx.LanguageModel) -> None:
    for options in ({"positions": 70}, {"rows": 2}):
        engine = make_engine(lm, reuse=False, **options)
        sequences = [engine.submit(asking(10, seed, 21)) for seed in range(5)]  # 30 positions each
        most = 0
        while engine.has_work:
            engine.step()
            most = max(most, len(engine.running))
            assert engine.limits.budget.reserved <= engine.limits.budget.limit
        assert most == 2
        check_answers(lm, sequences)


@one_family
def test_prompts_that_begin_alike_wait_for_what_they_can_begin_with(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once that is held, they are read together."""
    monkeypatch.setattr(engines, "TOKEN_BYTES", lm.config.kv_bytes_per_token(32))
    begin = checkpoints.prompt(20, seed=1)
    prompts = [(*begin, *checkpoints.prompt(6, seed=seed)[1:]) for seed in range(2, 6)]
    engine = make_engine(lm)
    sequences = [engine.submit(Request(prompt, 12)) for prompt in prompts]
    engine.step()
    assert len(engine.waiting) == 3
    engine.step()
    assert not engine.waiting
    assert [one.reused for one in sequences] == [0, 20, 20, 20]
    while engine.has_work:
        engine.step()
    check_answers(lm, sequences)


@one_family
def test_a_cancelled_one_is_left_out_and_the_others_go_on(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm)
    sequences = [engine.submit(asking(8, seed)) for seed in range(4)]
    engine.cancel(sequences[1])
    engine.step()
    engine.step()
    assert not engine.waiting
    engine.cancel(sequences[2])
    while engine.has_work:
        engine.step()
    assert [one.finish == CANCELLED for one in sequences] == [False, True, True, False]
    check_answers(lm, sequences)
    assert engine.limits.budget.reserved == 0


class OneAdapter:
    """Adapters that all do nothing."""

    def __init__(self, model: Decodes) -> None:
        self.model = model

    def __contains__(self, number: object) -> bool:
        return True

    def alone(self, number: int) -> Decodes:
        return self.model

    def mixed(self, numbers: Sequence[int | None]) -> Decodes:
        return self.model

    def drop(self, number: int) -> None:
        pass


@one_family
def test_only_prompts_of_one_adapter_are_read_together(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm)
    engine.variants.adapters = OneAdapter(lm.model)
    sequences = [engine.submit(asking(8, seed, adapter=adapter)) for seed, adapter in enumerate((1, 1, None, 2))]
    left = []
    for _ in range(3):
        engine.step()
        left.append(len(engine.waiting))
    assert left == [2, 1, 0]
    while engine.has_work:
        engine.step()
    check_answers(lm, sequences)


@one_family
def test_a_longer_cache_that_is_handed_over_leaves_the_budget_to_itself(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kept cache may be longer than its new request needs: what begins beside it must still have room."""
    monkeypatch.setattr(engines, "TOKEN_BYTES", lm.config.kv_bytes_per_token(32))
    engine = make_engine(lm, positions=800)
    first = engine.submit(asking(110, 1, 10))
    while engine.has_work:
        engine.step()
    one = engine.submit(Request((*first.request.prompt[:100], 5), 2))
    other = engine.submit(asking(5, 2, 690))
    engine.step()
    assert (one.reused, other.admitted_at) == (100, None)
    while not (one.finish and other.ids):
        engine.step()
        assert engine.limits.budget.reserved <= engine.limits.budget.limit
    check_answers(lm, [one])
