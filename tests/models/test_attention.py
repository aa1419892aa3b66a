"""The cache attends: a model asks a layer for no more, so layers of any kind mix, and rows may differ in length."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.engine.cache.kv import KVCache, make_cache
from elm_mlx.models.attention import Uncached

each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)


class RowsLayer:
    """A layer of rows that differ in length: each row has a cache of its own, and the offset is one for each."""

    def __init__(self, rows: Sequence[KVCache]) -> None:
        self.rows = rows

    @property
    def offset(self) -> mx.array:
        return mx.array([row.offset for row in self.rows])

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        each = enumerate(self.rows)
        return mx.concatenate([row.attend(q[i : i + 1], k[i : i + 1], v[i : i + 1]) for i, row in each])


@pytest.mark.parametrize(
    ("source", "compiled"),
    [
        ("openelm", False),
        ("llama-3.1", False),
        pytest.param("openelm", True, marks=pytest.mark.slow),  # the compiler takes most of these
        pytest.param("llama-3.1", True, marks=pytest.mark.slow),
    ],
    indirect=["source"],
)
def test_rows_of_different_lengths_give_what_each_gives_alone(lm: elm_mlx.LanguageModel, compiled: bool) -> None:
    lengths, layers = (3, 17, 8), lm.config.num_layers
    caches = [make_cache(layers, 32) for _ in lengths]
    twins = [make_cache(layers, 32) for _ in lengths]
    for length, own, twin in zip(lengths, caches, twins, strict=True):
        for cache in (own, twin):
            lm.model.hidden(mx.array([checkpoints.prompt(length)]), cache)
    together = [RowsLayer([cache[layer] for cache in caches]) for layer in range(layers)]
    lm.model.set_compiled(compiled)
    for step in range(3):
        ids = mx.array([[5 + step], [7], [9 * step]])
        states = lm.model.last_hidden(ids, together)  # [B, E]
        alone = [lm.model.last_hidden(ids[i : i + 1], twin) for i, twin in enumerate(twins)]
        assert mx.allclose(states, mx.concatenate(alone), atol=1e-5).item()
    lm.model.set_compiled(False)


@each_family
def test_a_model_without_a_cache_gives_the_states_of_one_that_keeps_them(lm: elm_mlx.LanguageModel) -> None:
    ids = mx.array([checkpoints.prompt(20)])
    kept = lm.model.hidden(ids, make_cache(lm.config.num_layers, 20))
    assert mx.allclose(lm.model.hidden(ids), kept, atol=1e-5).item()


def test_a_layer_without_a_cache_is_at_position_0_and_keeps_nothing() -> None:
    layer, keys = Uncached(), mx.random.normal((1, 2, 5, 8), key=mx.random.key(0))
    first = layer.attend(keys[:, :, :3], keys[:, :, :3], keys[:, :, :3])
    layer.attend(keys, keys, keys)
    assert layer.offset == 0
    assert mx.array_equal(first, layer.attend(keys[:, :, :3], keys[:, :, :3], keys[:, :, :3])).item()
