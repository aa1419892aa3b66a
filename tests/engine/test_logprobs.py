"""Log-probabilities are those of the model's own logits, one entry an id, in a batch only for the rows that ask."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from helpers.engines import make_engine
from hypothesis import given, settings
from hypothesis import strategies as st

import elm_mlx
from elm_mlx.config.generation import Sampling
from elm_mlx.engine.logprobs import TokenLogprob, keys_of, noter_for, read_key
from elm_mlx.engine.request import Request


def plain_entry(logits: np.ndarray, id: int, most: int) -> TokenLogprob:
    """The slow, obvious twin: logits [V] of one row."""
    x = logits.astype(np.float64)
    x = x - x.max() - np.log(np.exp(x - x.max()).sum())
    order = sorted(range(len(x)), key=lambda other: (-logits[other], other))
    return TokenLogprob(x[id], tuple((other, x[other]) for other in order[:most]))


def check(found: TokenLogprob, expected: TokenLogprob, within: float = 1e-5) -> None:
    assert [id for id, _ in found.alternatives] == [id for id, _ in expected.alternatives]
    for one, other in zip((found.logprob, *(x for _, x in found.alternatives)),
                          (expected.logprob, *(x for _, x in expected.alternatives)), strict=True):  # fmt: skip
        assert one == other or abs(one - other) <= within * max(1, abs(other))


values = st.one_of(st.floats(-50, 50, width=16), st.just(-math.inf), st.just(-0.0), st.just(0.0))


@settings(max_examples=100)
@given(st.lists(values, min_size=2, max_size=30).filter(lambda x: max(x) > -math.inf), st.integers(0, 20), st.data())
def test_entries_are_those_of_the_plain_twin_with_equals_in_the_order_of_ids(
    logits: list[float], most: int, data: st.DataObject
) -> None:
    id = data.draw(st.integers(0, len(logits) - 1))
    noter = noter_for([("row", most)])
    assert noter
    ((_, entry),) = noter(mx.array([logits]), mx.array([id], mx.uint32)).entries()
    check(entry, plain_entry(np.array(logits), id, most))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=10))
def test_a_key_tells_its_id_and_logit_back(logits: list[float]) -> None:
    keys = keys_of(mx.array([logits]), mx.arange(len(logits), dtype=mx.int64))[0].tolist()
    assert [read_key(key) for key in keys] == [(i, x) for i, x in enumerate(logits)]  # type: ignore[union-attr]


def test_only_rows_that_ask_have_entries_each_as_many_as_it_asks_for() -> None:
    logits = mx.random.normal((4, 50), key=mx.random.key(0)).astype(mx.bfloat16)
    ids = mx.array([3, 4, 5, 6], mx.uint32)
    noter = noter_for([("a", 2), ("b", None), ("c", 0), ("d", 5)])
    assert noter
    entries = dict(noter(logits, ids).entries())
    rows = np.array(logits.astype(mx.float32))
    assert list(entries) == ["a", "c", "d"]
    for name, row, most in (("a", 0, 2), ("c", 2, 0), ("d", 3, 5)):
        check(entries[name], plain_entry(rows[row], int(ids[row].item()), most))


@pytest.mark.parametrize("submit", ["early", "late"])
@pytest.mark.parametrize("source", ["openelm"], indirect=True)
def test_an_engine_notes_each_id_from_unchanged_logits(lm: elm_mlx.LanguageModel, submit: str) -> None:
    engine = make_engine(lm, submit=submit, rows=3)
    sampling = Sampling(0.9, repetition_penalty=1.5, banned=(3,))
    asked = [2, None, 0, 20, 3]
    requests = [
        Request(tuple(checkpoints.prompt(20, seed=n)), 4 + n, sampling if n % 2 else Sampling(), n, logprobs=most)
        for n, most in enumerate(asked)
    ]
    sequences = [engine.submit(request) for request in requests]
    while engine.has_work:
        engine.step()
    for one, most in zip(sequences, asked, strict=True):
        assert len(one.logprobs) == (0 if most is None else len(one.ids))
        logits = np.array(lm.logits([*one.request.prompt, *one.ids]))[len(one.request.prompt) - 1 :]
        for entry, id, row in zip(one.logprobs, one.ids, logits, strict=False):
            check(entry, plain_entry(row, id, most or 0), within=1e-3)
