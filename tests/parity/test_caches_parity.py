"""Attention over quantized keys and in a window gives what mlx-lm's gives."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from helpers.full_pass import CLOSE, relative

from elm_mlx.engine.cache.kind import CacheKind
from elm_mlx.engine.cache.kind_cache import make_kind_cache

pytestmark = pytest.mark.parity
H, K, D = 8, 2, 64


def random_heads(rng: np.random.Generator, heads: int, length: int) -> mx.array:
    return mx.array(rng.standard_normal((1, heads, length, D)), mx.float32)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_attention_is_that_of_mlx_lm(bits: int) -> None:
    from mlx_lm.models.base import scaled_dot_product_attention
    from mlx_lm.models.cache import QuantizedKVCache

    rng = np.random.default_rng(0)
    ours = make_kind_cache(CacheKind(key_bits=bits, value_bits=bits), 1, 1000)[0]
    theirs = QuantizedKVCache(64, bits)
    for length in (300, 1, 5, 1):
        q, k, v = (random_heads(rng, heads, length) for heads in (H, K, K))
        found = ours.attend(q, k, v)
        mask = theirs.make_mask(length, return_array=False, window_size=None)
        expected = scaled_dot_product_attention(q + 0, *theirs.update_and_fetch(k, v), theirs, D**-0.5, mask)
        assert relative(found, expected) <= (0 if length == 1 else CLOSE)


@pytest.mark.parametrize("sinks", [0, 4])
def test_a_window_is_that_of_mlx_lm(sinks: int) -> None:
    """Whose window counts the sinks, and whose sinks stay beside the last positions once it has turned."""
    from mlx_lm.models.base import scaled_dot_product_attention
    from mlx_lm.models.cache import RotatingKVCache

    rng = np.random.default_rng(0)
    ours, theirs = make_kind_cache(CacheKind(32, sinks), 1, 1000)[0], RotatingKVCache(32 + sinks, keep=sinks)
    for number in range(400):
        q, k, v = (random_heads(rng, heads, 1) for heads in (H, K, K))
        found = ours.attend(q, k, v)
        expected = scaled_dot_product_attention(q, *theirs.update_and_fetch(k, v), theirs, D**-0.5, None)
        assert relative(found, expected) <= CLOSE, number
