"""Attention whose query heads share the products of their key head is that of each head by itself."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from elm_mlx.device import exponential
from elm_mlx.engine.cache.attention import (
    FEW,
    MOST_KEYS,
    MOST_QUERIES,
    attention,
    heads_and_queries,
    made_mask,
    repeats,
    spelled_out,
)
from elm_mlx.engine.cache.causal import CausalMasks


def twin(q: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None) -> mx.array:
    """What `attention` computes, with the keys repeated for each query head. The mask is [B, H, L, S]."""
    shared = q.shape[1] // keys.shape[1]
    scores = q @ mx.repeat(keys, shared, axis=1).swapaxes(2, 3) * q.shape[3] ** -0.5
    scores = scores if mask is None else mx.where(mask, scores, -mx.inf)
    return mx.softmax(scores, axis=-1) @ mx.repeat(values, shared, axis=1)


@pytest.mark.parametrize(("H", "K"), [(4, 4), (8, 2), (6, 2), (16, 1), (9, 1)])
@pytest.mark.parametrize("S", [1, 3, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_one_position_attends_as_each_of_its_heads_would(H: int, K: int, S: int, masked: bool) -> None:
    mx.random.seed(H * 100 + S)
    q, keys, values = (mx.random.normal((3, heads, n, 8)) for heads, n in ((H, 1), (K, S), (K, S)))
    rows = mx.broadcast_to(mx.arange(S) >= mx.array([0, S // 2, S - 1])[:, None, None, None], (3, H, 1, S))
    given = rows.reshape(3, *heads_and_queries(H, 1, K, S), S)
    mixed = attention(q, keys, values, given if masked else None)
    assert mixed.shape == q.shape
    assert mx.allclose(mixed, twin(q, keys, values, rows if masked else None), atol=1e-5).item()


def test_heads_become_queries_only_where_metal_has_one_kernel_for_them() -> None:
    assert heads_and_queries(8, 1, 2, 40) == (2, 4)
    assert heads_and_queries(8, 5, 2, 40) == (8, 5)  # several positions
    assert heads_and_queries(2 * MOST_QUERIES, 1, 1, 40) == (2 * MOST_QUERIES, 1)
    assert heads_and_queries(8, 1, 2, 3) == (8, 1)  # more queries than keys
    assert heads_and_queries(8, 1, 2, MOST_KEYS) == (8, 1)


@pytest.mark.parametrize(("H", "K"), [(4, 4), (6, 2), (9, 1)])
@pytest.mark.parametrize(("L", "S"), [(1, 40), (5, 40), (20, 20)])
@pytest.mark.parametrize("kind", ["none", "causal", "booleans", "added"])
@pytest.mark.parametrize("is_slow", [False, True])
def test_attention_that_is_spelled_out_is_that_of_mlx(
    H: int, K: int, L: int, S: int, kind: str, is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By softmax, and by powers."""
    monkeypatch.setattr(exponential, "is_slow", lambda *_asked: is_slow)
    mx.random.seed(H * 100 + L)
    q, keys, values = (3 * mx.random.normal((3, heads, n, 8)) for heads, n in ((H, L), (K, S), (K, S)))
    readable = mx.array(np.tri(L, S, S - L, dtype=np.bool_))[None, None]
    mask = {"none": None, "causal": "causal", "booleans": readable, "added": mx.where(readable, 0.0, -mx.inf)}[kind]
    of_mlx = mx.fast.scaled_dot_product_attention(q, keys, values, scale=8**-0.5, mask=mask)
    assert mx.allclose(spelled_out(q, keys, values, mask), of_mlx, atol=1e-5).item()


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("L", [2, FEW, FEW + 1])
def test_positions_attend_alike_wherever_exponentials_are_slow(
    L: int, is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the mask that all layers share; that of a few positions repeats itself for heads that share a key head."""
    monkeypatch.setattr(exponential, "has_slow_exp", lambda: is_slow)
    H, K, S = 6, 2, 40
    q, keys, values = (mx.random.normal((1, heads, n, 8)) for heads, n in ((H, L), (K, S), (K, S)))
    assert repeats(q, keys) == (H // K if is_slow and L <= FEW else 1)
    expected = twin(q, keys, values, mx.array(np.tri(L, S, S - L, dtype=np.bool_)))
    assert mx.allclose(attention(q, keys, values, CausalMasks().of(q, keys)), expected, atol=1e-5).item()


@pytest.mark.parametrize("is_slow", [False, True])
def test_rows_of_slots_attend_alike_wherever_exponentials_are_slow(
    is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask for each row, over more numbers than a machine with slow exponentials takes as they are."""
    monkeypatch.setattr(exponential, "has_slow_exp", lambda: is_slow)
    B, H, K, S = 4, 6, 2, 100
    assert B * H * S >= exponential.LEAST
    q, keys, values = (mx.random.normal((B, heads, n, 8)) for heads, n in ((H, 1), (K, S), (K, S)))
    rows = np.arange(S) >= np.array([0, 30, 98, 99])[:, None, None, None]
    each = np.broadcast_to(rows, (B, K, H // K, S))
    made = made_mask(each, q.dtype)
    assert (made.dtype == mx.bool_) is not is_slow
    expected = twin(q, keys, values, mx.array(np.broadcast_to(rows, (B, H, 1, S))))
    assert mx.allclose(attention(q, keys, values, made), expected, atol=1e-5).item()
