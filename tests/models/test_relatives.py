"""Llama's relatives compute what a plain Llama with each layer's weights written out does, and BitNet its formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, relatives
from helpers.adapters import made_sums, merged_copy

from elm_mlx.config import LlamaConfig, config_from_dict
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.models import MODELS, build
from elm_mlx.models.lora import places
from elm_mlx.models.model import Model
from elm_mlx.models.parameters import Parameters
from elm_mlx.models.rack import Rack
from elm_mlx.store.load import load_directory

SHARED = {"mobilellm-ls": relatives.MOBILELLM_LS, "mobillama": relatives.MOBILLAMA}
IDS = checkpoints.prompt(20)


def parameters(arrays: dict[str, np.ndarray]) -> Parameters:
    return Parameters({name: mx.array(array) for name, array in arrays.items()}, None, mx.float32)


def model_and_twin(raw: dict[str, Any], compiled: bool = False) -> tuple[Model, Model]:
    arrays, config = checkpoints.weights(raw), config_from_dict(raw)
    twin = config_from_dict(relatives.plain(raw))
    assert isinstance(config, LlamaConfig)
    assert config.unshared() == twin
    written_out = parameters(relatives.written_out(raw, arrays))
    return build(config, parameters(arrays), compiled=compiled), build(twin, written_out, compiled=False)


@pytest.mark.parametrize("name", SHARED)
def test_without_a_cache_it_is_its_twin_bit_for_bit(name: str) -> None:
    model, twin = model_and_twin(SHARED[name])
    assert mx.array_equal(model(mx.array([IDS])), twin(mx.array([IDS])))
    stages = MODELS[type(model.config)].stages(model.config, parameters(checkpoints.weights(SHARED[name])))
    states, count = mx.array([IDS]), 0
    for stage in stages:
        states, count = stage(states), count + 1
    assert count == model.config.num_layers + 2
    assert mx.array_equal(states, twin.hidden(mx.array([IDS])))


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_chunks_steps_and_rounds_are_those_of_its_twin(name: str, compiled: bool) -> None:
    model, twin = model_and_twin(SHARED[name], compiled)
    cache, other = (make_cache(one.config.num_layers, 64, 64) for one in (model, twin))
    for ids in (IDS[:8], IDS[8:], [7], [9]):
        given = mx.array([ids])
        a, b = model.last_hidden(given, cache), twin.last_hidden(given, other)
        assert float(mx.abs(a - b).max()) <= (1e-5 if compiled else 0) * float(mx.abs(b).max())
    a, b = model.few_hidden(mx.array([[3, 4, 5]]), cache), twin.few_hidden(mx.array([[3, 4, 5]]), other)
    assert float(mx.abs(a - b).max()) <= (1e-5 if compiled else 0) * float(mx.abs(b).max())


@pytest.mark.parametrize("raw", [*SHARED.values(), relatives.BITNET], ids=[*SHARED, "bitnet"])
def test_its_adapters_stand_once_beside_each_matrix(raw: dict[str, Any], tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "source", raw)
    model, sums, ids = load_directory(source).model, made_sums(source), mx.array([IDS])
    names = [matrix for place in places(model) for matrix in place.names]
    assert sorted(names) == sorted(sums)
    rack = Rack(model)
    rack.put(1, sums)
    a = rack.alone(1)(ids)
    b = load_directory(merged_copy(source, tmp_path / "merged", sums)).model(ids)
    assert float(mx.abs(a - b).max()) <= 2e-4 * float(mx.abs(b).max())


def test_a_step_reads_shared_weights_more_than_once() -> None:
    """The bytes that a step takes are those of its twin, but for the embedding, whose rows are looked up."""
    for raw in SHARED.values():
        config = config_from_dict(raw)
        assert isinstance(config, LlamaConfig)
        twin = config.unshared()
        assert config.reads * config.parameter_count == pytest.approx(twin.reads * twin.parameter_count)
        assert config.kv_bytes_per_token() == twin.kv_bytes_per_token()


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def rotated(x: np.ndarray) -> np.ndarray:
    """Queries or keys [L, heads, D], each pair half a head apart turned by its position."""
    half = x.shape[2] // 2
    angles = np.arange(len(x))[:, None] * 500000.0 ** (-np.arange(half) / half)  # [L, D / 2]
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def bitnet_reference(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """BitNet's logits [L, V] in float64, written as its formulas are."""
    heads, kv_heads, D = 8, 2, 16
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    h, L = w["model.embed_tokens.weight"][ids], len(ids)
    for layer in range(relatives.LAYERS):

        def own(name: str, layer: int = layer) -> np.ndarray:
            return w[f"model.layers.{layer}.{name}.weight"]

        x = rms(h, own("input_layernorm"))
        q, k, v = ((x @ own(f"self_attn.{n}_proj").T).reshape(L, -1, D) for n in "qkv")
        q, k = rotated(q), rotated(k)
        mixed = np.empty((L, heads, D))
        for head in range(heads):
            group = head * kv_heads // heads
            scores = q[:, head] @ k[:, group].T / np.sqrt(D)
            scores[np.triu_indices(L, 1)] = -np.inf
            share = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, head] = share / share.sum(-1, keepdims=True) @ v[:, group]
        h = h + rms(mixed.reshape(L, -1), own("self_attn.attn_sub_norm")) @ own("self_attn.o_proj").T
        x = rms(h, own("post_attention_layernorm"))
        inner = np.maximum(x @ own("mlp.gate_proj").T, 0) ** 2 * (x @ own("mlp.up_proj").T)
        h = h + rms(inner, own("mlp.ffn_sub_norm")) @ own("mlp.down_proj").T
    return rms(h, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bitnet_is_its_formula_in_prompts_and_steps(compiled: bool) -> None:
    weights = checkpoints.weights(relatives.BITNET)
    model = build(config_from_dict(relatives.BITNET), parameters(weights), compiled=compiled)
    expected = bitnet_reference(weights, IDS)
    assert np.abs(np.array(model(mx.array([IDS]))[0]) - expected).max() < 1e-5 * np.abs(expected).max()
    cache = make_cache(model.config.num_layers, 64, 64)
    model.last_hidden(mx.array([IDS[:-1]]), cache)
    step = model.head(model.last_hidden(mx.array([IDS[-1:]]), cache))
    assert np.abs(np.array(step[0]) - expected[-1]).max() < 1e-5 * np.abs(expected).max()
