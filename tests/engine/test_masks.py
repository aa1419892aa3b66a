"""A mask leaves the logits of what it allows as they are, and takes all else away, in one kernel for all rows."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from helpers.automata import Told, only, packed
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.engine.guide import Guide, all_but, foresee, has
from elm_mlx.engine.masks import forbid, restrict
from elm_mlx.errors import ElmError, InvalidRequest, RequestFailed

V = 70


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_forbidden_ids_get_minus_infinity_and_the_others_keep_their_bits(rows: int, vocabulary: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, vocabulary)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.05] = np.nan
    allowed = rng.random(logits.shape) < rng.random()
    words = np.stack([packed(row) for row in allowed])
    found = np.array(restrict(mx.array(logits), words, compiled=False))
    assert np.array_equal(found, np.where(allowed, logits, -np.inf), equal_nan=True)


@pytest.mark.slow  # it runs a compiler
@pytest.mark.parametrize(("vocabulary", "dtype"), [(64, mx.float32), (V, mx.bfloat16), (64, mx.float16)])
def test_compiled_it_gives_the_same_and_keeps_the_type(vocabulary: int, dtype: mx.Dtype) -> None:
    logits = mx.random.normal((2, vocabulary), key=mx.random.key(0)).astype(dtype)
    words = np.stack([packed(only(vocabulary, 3, 33, 63)), all_but((5,), vocabulary)])
    plain, compiled = (restrict(logits, words, compiled) for compiled in (False, True))
    assert plain.dtype == compiled.dtype == dtype
    assert mx.array_equal(plain, compiled)
    assert forbid(logits, mx.array(words), mx.arange(32, dtype=mx.uint32)).shape == logits.shape


@settings(max_examples=60)
@given(st.integers(1, 100), st.sets(st.integers(0, 120)))
def test_all_but_some_ids(vocabulary: int, banned: set[int]) -> None:
    words = all_but(banned, vocabulary)
    assert words.dtype == np.uint32
    assert [id for id in range(len(words) * 32) if has(words, id)] == [
        id for id in range(vocabulary) if id not in banned
    ]


def guide_of(*masks: np.ndarray, banned: tuple[int, ...] = ()) -> Guide:
    guide = Guide(Told(masks), banned)
    guide.begin(V)
    return guide


def test_bits_beyond_the_vocabulary_allow_nothing() -> None:
    class Beyond(Told):
        def mask(self) -> np.ndarray:
            return np.array([0, 0, 0xFFFFFFC0], np.uint32)  # 70 and above

    guide = Guide(Beyond([]))
    guide.begin(V)
    with pytest.raises(RequestFailed, match="allows no id as token 1"):
        guide.next()


def test_where_all_that_is_allowed_is_banned_the_error_says_so() -> None:
    guide = guide_of(only(V, 1, 2), only(V, 3), banned=(2, 3))
    assert [id for id in range(V) if has(guide.next(), id)] == [1]
    guide.take(1)
    with pytest.raises(InvalidRequest, match="token 2 is banned"):
        guide.next()


@pytest.mark.parametrize("mask", [np.ones(2, np.uint32), np.ones(3, np.int64), np.ones((1, 3), np.uint32)])
def test_a_mask_of_another_form_is_refused(mask: np.ndarray) -> None:
    class Wrong(Told):
        def mask(self) -> np.ndarray:
            return mask

    guide = Guide(Wrong([]))
    guide.begin(V)
    with pytest.raises(RequestFailed, match="not uint32"):
        guide.next()


def test_what_is_no_mask_at_all_is_refused() -> None:
    guide = guide_of()
    guide.constraint.mask = lambda: None  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(RequestFailed, match="not uint32"):
        guide.next()


def test_an_id_beyond_the_mask_is_forbidden() -> None:
    assert foresee(guide_of(only(V, 1)), [96, 1], ()).is_cut


def test_an_id_that_the_mask_forbids_is_never_taken() -> None:
    guide = guide_of(only(V, 1))
    guide.next()
    with pytest.raises(RequestFailed, match="probability above 0"):
        guide.take(2)


def test_whatever_a_constraint_raises_becomes_an_error_of_the_answer_but_for_an_interrupt() -> None:
    class Panic(BaseException):
        pass

    class Raises(Told):
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def mask(self) -> np.ndarray:
            raise self.error

    kinds = {
        Panic("p"): RequestFailed,
        KeyError("k"): RequestFailed,
        InvalidRequest("i"): InvalidRequest,
        KeyboardInterrupt(): KeyboardInterrupt,
    }
    for error, kind in kinds.items():
        guide = Guide(Raises(error))
        guide.begin(V)
        with pytest.raises(kind):
            guide.next()


def test_proposals_stand_up_to_the_first_that_is_forbidden() -> None:
    masks = only(V, 1, 2), only(V, 3, 60), only(V, 4)
    found = foresee(guide_of(*masks), [1, 60, 5, 4], ())
    assert (found.ids, found.is_cut) == ([1, 60], True)
    assert [packed(mask).tolist() for mask in masks] == found.words.tolist()
    kept = found.first(1)
    assert (kept.ids, len(kept.words), kept.is_cut) == ([1], 2, False)


def test_a_proposal_that_may_end_the_answer_has_nothing_after_it() -> None:
    found = foresee(guide_of(only(V, 1), only(V, 3, 60)), [1, 60, 5], {60})
    assert (found.ids, len(found.words), found.is_cut) == ([1], 2, False)


def test_what_fails_for_an_id_that_is_only_proposed_ends_the_proposals_alone() -> None:
    masks = only(V, 1), only(V)
    guide = guide_of(*masks)
    assert foresee(guide, [1, 2], ()).ids == []
    guide.take(1)
    with pytest.raises(ElmError):
        foresee(guide, [2], ())


def test_looking_ahead_changes_nothing() -> None:
    guide = guide_of(only(V, 1), only(V, 2), only(V, 3))
    foresee(guide, [1, 2, 3], ())
    for token in (1, 2, 3):
        assert has(guide.next(), token)
        guide.take(token)
