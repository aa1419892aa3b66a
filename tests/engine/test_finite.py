"""Logits that are no numbers end a generation: no id is drawn from them, and nothing more is waited for to see it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from helpers.engines import check_answers, make_engine, plain_ids

import elm_mlx
from elm_mlx.engine.cache.kv import KVCache, make_cache
from elm_mlx.engine.finite import peaks
from elm_mlx.engine.plain import generate
from elm_mlx.engine.request import Request
from elm_mlx.engine.sampling import Sampler, Sampling
from elm_mlx.engine.sequence import CANCELLED, ERROR
from elm_mlx.errors import BadCheckpoint, NotFinite

NAN, INF = math.nan, math.inf
ENTRIES = 70
FINITE = np.linspace(-3, 3, ENTRIES)


class Scripted:
    """A model whose logits are given, row by row."""

    def __init__(self, rows: Sequence[np.ndarray], dtype: mx.Dtype) -> None:
        self.rows: Iterator[mx.array] = iter([mx.array(row, dtype)[None] for row in rows])

    def hidden(self, ids: mx.array, cache: Sequence[KVCache] | None) -> mx.array:
        return ids

    def last_hidden(self, ids: mx.array, cache: Sequence[KVCache]) -> mx.array:
        return ids[:, -1]

    def head(self, states: mx.array) -> mx.array:
        return mx.depends([next(self.rows)], [states])[0]


def drawn(rows: Sequence[np.ndarray], sampling: Sampling, dtype: mx.Dtype = mx.float32) -> tuple[list[int], str]:
    """(the ids that come, the error that ends them or nothing)."""
    ids: list[int] = []
    try:
        for token in generate(Scripted(rows, dtype), [1], make_cache(1, 9), Sampler(sampling, 0), max_tokens=len(rows)):
            ids.append(token)
    except NotFinite as error:
        return ids, str(error)
    return ids, ""


def with_entries(*entries: tuple[int, float]) -> np.ndarray:
    row = FINITE.copy()
    for place, value in entries:
        row[place] = value
    return row


ALL = slice(None)
BAD = [with_entries((ALL, NAN)), with_entries((ALL, -NAN)), with_entries((ALL, -INF)),
       *(with_entries((place, value)) for place in (0, 33, ENTRIES - 1) for value in (NAN, -NAN, INF))]  # fmt: skip
SAMPLINGS = [Sampling(), Sampling(1.0), Sampling(1.0, top_k=5), Sampling(1.0, top_p=0.9), Sampling(1.0, min_p=0.2),
             Sampling(1.0, top_k=9, top_p=0.9, min_p=0.1)]  # fmt: skip


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
def test_no_id_is_drawn_from_logits_that_are_no_numbers(sampling: Sampling, dtype: mx.Dtype) -> None:
    good, none = drawn([FINITE] * 2, sampling, dtype)
    assert (len(good), none) == (2, "")
    for bad in BAD:
        for place in (0, 2):
            rows = [FINITE] * place + [bad, FINITE]
            ids, error = drawn(rows, sampling, dtype)
            assert ids == good[:place]
            assert f"at token {place + 1} of the answer" in error


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_an_id_that_is_ruled_out_by_minus_infinity_is_no_fault(sampling: Sampling) -> None:
    ids, error = drawn([with_entries((ENTRIES - 1, -INF))] * 4, sampling)
    assert (len(ids), error) == (4, "")
    assert ENTRIES - 1 not in ids


def test_each_row_of_a_batch_is_judged_alone() -> None:
    rows = np.stack([FINITE, with_entries((5, NAN)), with_entries((5, INF)), with_entries((5, -INF))])
    assert np.isfinite(np.array(peaks(mx.array(rows, mx.float32)))).tolist() == [True, False, False, True]


def test_the_check_comes_with_the_id_in_one_submission_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[int] = []
    submit = mx.async_eval
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: submitted.append(len(arrays)) or submit(*arrays))
    assert len(drawn([FINITE] * 5, Sampling())[0]) == 5
    assert submitted == [2] * 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_came_before_stays_in_the_completion(tmp_path: Path, temperature: float) -> None:
    """The embedding of the third id of an answer is NaN, so the fourth cannot be drawn."""
    source = checkpoints.write(tmp_path / "source", checkpoints.LLAMA | {"eos_token_id": None})
    options = {"max_tokens": 8, "temperature": temperature, "seed": 2}
    whole = elm_mlx.load(source).stream(checkpoints.prompt(20), **options)
    ids = [piece.token for piece in whole]
    assert ids[2] not in [*checkpoints.prompt(20), *ids[:2]]
    broken = elm_mlx.load(with_a_broken_embedding(source, tmp_path / "broken", ids[2]))
    stream = broken.stream(checkpoints.prompt(20), **options)
    with pytest.raises(NotFinite, match="NaN at token 4 of the answer"):
        list(stream)
    assert stream.completion.tokens == ids[:3]
    assert list(stream) == []
    assert mx.isnan(broken.logits(checkpoints.prompt(20) + ids[:3])[-1]).all().item()


@pytest.mark.parametrize("finish", [ERROR, CANCELLED])
def test_a_row_leaves_nothing_to_the_next_one_in_its_slot(tmp_path: Path, finish: str) -> None:
    """The embedding of the third id of an answer is NaN, and so are then keys and values in the row's slot; the row
    ends by that, or by a cancel before it is seen. The next row there comes later, so that they lie beside its own."""
    source = checkpoints.write(tmp_path / "source", checkpoints.LLAMA)
    request = Request(tuple(checkpoints.prompt(30, seed=3)), 20)
    token = plain_ids(elm_mlx.load(source), request)[2]
    lm = elm_mlx.load(with_a_broken_embedding(source, tmp_path / "broken", token))
    engine = make_engine(lm, reuse=False)
    good = [engine.submit(Request(tuple(checkpoints.prompt(40, seed=n)), 40)) for n in range(2)]
    bad = engine.submit(request)
    while len(bad.ids) < 3:
        engine.step()
    if finish == CANCELLED:
        engine.cancel(bad)
    for _ in range(10):
        engine.step()
    good.append(engine.submit(Request(tuple(checkpoints.prompt(5, seed=4)), 20)))
    while engine.has_work:
        engine.step()
    assert bad.finish == finish
    check_answers(lm, good)


def test_a_prompt_that_is_nan_spoils_none_of_those_that_are_read_with_it(tmp_path: Path) -> None:
    """It is the shortest, and its only id, whose embedding is NaN, fills it up."""
    source = checkpoints.write(tmp_path / "source", checkpoints.LLAMA)
    prompts = [tuple(checkpoints.prompt(length, seed=length)) for length in (9, 14, 1, 3)]
    bad = max(set(range(checkpoints.VOCAB)).difference(*prompts))
    lm = elm_mlx.load(with_a_broken_embedding(source, tmp_path / "broken", bad))
    engine = make_engine(lm)
    asked = [engine.submit(Request(prompt, 6)) for prompt in (*prompts[:2], (bad,), *prompts[2:])]
    assert set(engine.step()) == set(asked)
    while engine.has_work:
        engine.step()
    assert [one.finish == ERROR for one in asked] == [False, False, True, False, False]
    check_answers(lm, [one for one in asked if one.finish != ERROR])
    assert engine.limits.budget.reserved == 0


def with_a_broken_embedding(source: Path, folder: Path, token: int) -> Path:
    """A copy of a Llama whose row for `token` in the embedding, which is not tied, is NaN."""
    shutil.copytree(source, folder)
    arrays = mx.load(str(source / "model.safetensors"))
    assert isinstance(arrays, dict)
    arrays["model.embed_tokens.weight"][token] = NAN
    checkpoints.save(folder, arrays)
    return folder


def test_it_is_a_damaged_checkpoint_to_who_catches_errors() -> None:
    assert (NotFinite.exit_code, issubclass(NotFinite, BadCheckpoint)) == (65, True)
