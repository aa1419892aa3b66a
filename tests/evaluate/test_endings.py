"""Ends of texts have the scores of their whole texts, however much of these is shared and read once."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from helpers.dense import dense_pass
from helpers.endings import check, slow_score
from hypothesis import given
from hypothesis import strategies as st

import elm_mlx
from elm_mlx.api.cache_kind import cache_kind
from elm_mlx.api.endings import Ending, families
from elm_mlx.errors import InvalidRequest, NotFinite

VOCABULARY = 90  # ids of every model here


@pytest.fixture(scope="module")
def one(openelm):
    with elm_mlx.load(openelm) as lm:
        yield lm


def questions(seed=0, count=5, context=20, endings=4):
    """Contexts of different lengths, each with ends of different lengths, of one id and of none."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        start = [1, *draw.choices(range(VOCABULARY), k=draw.randrange(1, context))]
        for length in (0, 1, *draw.choices(range(1, 9), k=endings - 2)):
            found.append(Ending((*start, *draw.choices(range(VOCABULARY), k=length)), length))
    return found


def test_ends_have_the_scores_of_their_whole_texts(lm):
    asked = questions(count=2)
    check(lm.ending_scorer()(asked), [slow_score(lm, each) for each in asked])


def test_the_order_of_texts_changes_no_score(one):
    asked = questions(1)
    shuffled = random.Random(2).sample(asked, len(asked))
    scorer = one.ending_scorer()
    scores = dict(zip(shuffled, scorer(shuffled), strict=True))
    check([scores[each] for each in asked], one.ending_scorer()(asked))


def test_an_end_that_the_model_writes_itself_is_greedy(one):
    written = one.generate([1, 5, 7], 4, plain=True, reuse=False).tokens
    asked = [Ending((1, 5, 7, *written), 4), Ending((1, 5, 7, *written[:3], written[3] + 1), 4)]
    assert [each.is_greedy for each in one.ending_scorer()(asked)] == [True, False]


@pytest.mark.parametrize("options", [{"kv_bits": 8}, {"window": 16}, {"window": 16, "kv_bits": 4}])
def test_caches_of_other_kinds_score_as_they_generate(one, options):
    asked = questions(3, count=2, context=30)
    kind = replace(cache_kind(options, one.config.context_length))
    wanted = [slow_score(one, each, dense_pass(one, [*each.ids], kind)) for each in asked]
    check(one.ending_scorer(**options)(asked), wanted, 2e-3)


def test_long_texts_are_read_in_chunks(one, monkeypatch):
    asked = [*questions(4, count=2), Ending((1, *[7, 8, 9, 10] * 12), 40), *questions(5, count=1)]
    whole = one.ending_scorer()(asked)
    engine = one._worker.engine
    monkeypatch.setattr(engine, "execution", replace(engine.execution, chunk=7))
    lengths = watch(monkeypatch, one)
    check(one.ending_scorer()(asked), whole)
    assert max(batch * length for batch, length in lengths) <= 7


def test_positions_are_counted_as_the_model_reads_them(one, monkeypatch):
    """Questions with 4 ends each: at least 2.3 times fewer positions than row by row, so many as 40 families say."""
    draw = random.Random(0)
    asked = []
    for _ in range(40):
        context = [1, *draw.choices(range(VOCABULARY), k=draw.randrange(24, 36))]
        asked += [Ending((*context, *draw.choices(range(VOCABULARY), k=length)), length) for length in (5, 7, 4, 6)]
    assert 2.3 * sum(each.positions for each in families(asked)) <= sum(len(each.ids) - 1 for each in asked)
    asked = asked[: 4 * 8]
    read = watch(monkeypatch, one)
    scorer = one.ending_scorer()
    scorer(asked)
    assert scorer.positions == sum(batch * length for batch, length in read)
    assert scorer.positions <= sum(each.positions for each in families(asked))
    streams = max(1, len(one.execution.streams))
    assert sum(batch > 1 for batch, _ in read) == 8 * streams  # the ends of each question in a pass on each stream


def test_examples_before_every_question_are_read_once(one):
    examples = [1, *[3, 4, 5] * 10]
    asked = [Ending((*examples, 10 + number, last), 1) for number in range(5) for last in (7, 8)]
    scorer = one.ending_scorer()
    check(scorer(asked), [slow_score(one, each) for each in asked])
    assert scorer.positions <= len(examples) + 2 * 5


def watch(monkeypatch, lm):
    """(rows, ids) of each call of the model from now on."""
    read, kind = [], type(lm.model)
    for name in ("hidden", "last_hidden"):
        monkeypatch.setattr(kind, name, noting(getattr(kind, name), read))
    return read


def noting(method, read):
    def call(self, ids, cache):
        read.append(ids.shape)
        return method(self, ids, cache)

    return call


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5))
def test_families_hold_every_text_once_and_share_what_is_shared(seed, count, endings):
    asked = questions(seed, count, 12, endings + 1)
    found = list(families(asked))
    assert [each for family in found for each in family.endings] == asked
    for family in found:
        assert len({each.ids[: family.shared] for each in family.endings}) == 1
        assert 1 <= family.shared <= min(each.start for each in family.endings)


def test_what_cannot_be_scored_is_refused(one):
    context = one.config.context_length
    scorer = one.ending_scorer()
    scorer([Ending((1,) * (context + 1), 1)])  # the last id is only predicted
    for wrong in (Ending((1,) * (context + 2), 1), Ending((1, 2), 2), Ending((), 0)):
        with pytest.raises(InvalidRequest):
            scorer([wrong])


def test_logits_that_are_no_numbers_are_no_score(one, monkeypatch):
    head = type(one.model).head
    scorer = one.ending_scorer()
    with monkeypatch.context() as patch:
        patch.setattr(type(one.model), "head", lambda self, states: head(self, states) * float("nan"))
        with pytest.raises(NotFinite):
            scorer(questions())
    check(scorer(questions()), one.ending_scorer()(questions()))  # and nothing wrong is left
