"""Llama's configuration: either spelling of transformers, with the published counts; relatives that attend otherwise
are refused."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import checkpoints

from elm_mlx.config import LlamaConfig, RopeConfig, config_from_dict
from elm_mlx.errors import BadCheckpoint, Unsupported

PUBLISHED = checkpoints.PUBLISHED["llama"]


@pytest.mark.parametrize("size", list(PUBLISHED))
def test_counts_are_the_published_ones(size: str) -> None:
    facts = PUBLISHED[size]
    config = config_from_dict(facts["config"])
    assert isinstance(config, LlamaConfig)
    assert config.parameter_count == facts["parameters"]
    assert config.kv_bytes_per_token() == facts["kv_bytes_per_token"]


def test_both_spellings_of_transformers_give_the_same_model() -> None:
    older = checkpoints.CONFIGS["llama-3.2"]
    assert config_from_dict(checkpoints.transformers5(older)) == config_from_dict(older)


def test_missing_keys_mean_what_transformers_defaults_say() -> None:
    config = config_from_dict({"model_type": "llama"})
    assert (config.model_dim, config.num_layers, config.vocab_size, config.head_dim) == (4096, 32, 32_000, 128)
    assert (config.norm_eps, config.rope, config.tied) == (1e-6, RopeConfig(10_000.0), False)
    assert config.num_kv_heads[0] == 32
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())  # those of its class are Llama 2's


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"head_dim": 0}, "head_dim is 0"),
        ({"head_dim": 15}, "even"),
        ({"head_dim": None, "num_attention_heads": 7}, "does not divide"),
        ({"num_key_value_heads": 4}, "cannot share evenly"),
    ],
)
def test_impossible_heads_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadCheckpoint, match=complaint):
        config_from_dict(checkpoints.LLAMA | change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "gelu"}, "'gelu'.*silu"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_traditional": True}, "rope_traditional"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types 'sliding_attention'"),
        ({"layer_types": "sliding_attention"}, "layer_types 'sliding_attention'"),
        ({"layer_types": [None]}, "layer_types None"),
        ({"sliding_window": 64}, "sliding_window is 64 "),
        ({"model_type": "mistral"}, "sliding_window is 4096 .*a mistral without the key.* null"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0 "),
    ],
)
def test_other_kinds_are_refused_by_name_with_those_that_run(change: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        config_from_dict(checkpoints.LLAMA | change)


@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_attention_to_all_positions_may_be_said(model_type: str) -> None:
    said = {"model_type": model_type, "sliding_window": None, "layer_types": ["full_attention"] * 3}
    assert config_from_dict(checkpoints.LLAMA | said) == config_from_dict(checkpoints.LLAMA)
