"""OpenELM's configuration: layers that differ, by multipliers or by stored lists, with the published counts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers import checkpoints

from elm_mlx.config import OpenELMConfig, config_from_dict
from elm_mlx.errors import BadCheckpoint, Unsupported

PUBLISHED = checkpoints.PUBLISHED["openelm"]


@pytest.mark.parametrize("size", list(PUBLISHED))
def test_counts_are_the_published_ones(size: str) -> None:
    facts = PUBLISHED[size]
    config = config_from_dict(facts["config"])
    assert isinstance(config, OpenELMConfig)
    assert config.parameter_count == facts["parameters"]
    assert list(config.ffn_dims) == facts["ffn_dims"]
    assert len(config.weight_shapes()) == facts["tensors"]
    assert config.kv_bytes_per_token() == facts["kv_bytes_per_token"]


@pytest.mark.parametrize("size", list(PUBLISHED))
def test_multipliers_and_stored_lists_give_the_same_model(size: str) -> None:
    raw = PUBLISHED[size]["config"]
    whole = config_from_dict(raw)
    lists_only = {key: value for key, value in raw.items() if key != "qkv_multipliers"}
    pairs_only = {k: v for k, v in raw.items() if k not in ("num_query_heads", "num_kv_heads")}
    assert config_from_dict(lists_only) == whole
    assert config_from_dict(pairs_only | {"ffn_multipliers": [0.5, 4.0]}) == whole


def test_stored_heads_that_disagree_with_the_multipliers_are_refused() -> None:
    raw = PUBLISHED["270m"]["config"]
    heads = [4, *raw["num_query_heads"][1:]]
    with pytest.raises(BadCheckpoint, match=r"num_query_heads .* disagrees with qkv_multipliers"):
        config_from_dict(raw | {"num_query_heads": heads})


def test_null_multipliers_leave_the_stored_lists() -> None:
    heads = {"num_query_heads": [3, 3, 6, 6], "num_kv_heads": [1, 1, 2, 2]}
    assert config_from_dict(checkpoints.OPENELM | heads | {"qkv_multipliers": None}).num_heads == (3, 3, 6, 6)


def test_a_scalar_multiplier_makes_uniform_layers() -> None:
    config = config_from_dict(checkpoints.OPENELM | {"qkv_multipliers": 1.5, "ffn_multipliers": 2.0})
    assert set(config.num_heads) == {6}
    assert set(config.ffn_dims) == {128}


def test_missing_keys_mean_what_transformers_defaults_say() -> None:
    config = config_from_dict({"model_type": "openelm"})
    assert isinstance(config, OpenELMConfig)
    assert (config.normalize_qk, config.tied, config.num_heads[0]) == (False, False, 16)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"qkv_multipliers": [-0.5, 1.0]}, "qkv_multipliers"),
        ({"qkv_multipliers": [0.5, math.nan]}, "qkv_multipliers"),
        ({"qkv_multipliers": []}, "qkv_multipliers"),
        ({"ffn_multipliers": [0.5, None]}, "ffn_multipliers"),
        ({"num_query_heads": [3, 6, 6, None]}, "num_query_heads"),
        ({"qkv_multipliers": [1e308, 1e308]}, "qkv_multipliers"),
        ({"ffn_multipliers": [1.0, 2.0, 3.0]}, "3 entries for 4 layers"),
        ({"num_query_heads": [3, 3]}, "list of 4"),
        ({"num_gqa_groups": 0}, "num_gqa_groups"),
    ],
)
def test_impossible_multipliers_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadCheckpoint, match=complaint):
        config_from_dict(checkpoints.OPENELM | change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling"),
        ({"rope_theta": 500000.0}, "rope_theta"),
        ({"normalization_layer_name": "layer_norm"}, "'layer_norm'"),
        ({"ffn_with_glu": False}, "ffn_with_glu"),
    ],
)
def test_other_kinds_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        config_from_dict(checkpoints.OPENELM | change)
