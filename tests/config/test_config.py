"""Configurations derive everything once, agree with the published figures, and refuse what cannot be."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers import checkpoints

from elm_mlx.config import LlamaConfig, OpenELMConfig, RopeConfig, config_from_dict
from elm_mlx.config.quantization import Quantization
from elm_mlx.config.values import Values
from elm_mlx.errors import BadCheckpoint, Unsupported

PUBLISHED = checkpoints.PUBLISHED
OPENELM, LLAMA = PUBLISHED["openelm"], PUBLISHED["llama"]


def rope_of(raw: dict[str, Any]) -> RopeConfig:
    return RopeConfig.from_values(Values(raw))


@pytest.mark.parametrize("size", list(OPENELM))
def test_openelm_counts_are_the_published_ones(size: str) -> None:
    facts = OPENELM[size]
    config = config_from_dict(facts["config"])
    assert isinstance(config, OpenELMConfig)
    assert config.parameter_count == facts["parameters"]
    assert list(config.ffn_dims) == facts["ffn_dims"]
    assert len(config.weight_shapes()) == facts["tensors"]
    assert config.kv_bytes_per_token() == facts["kv_bytes_per_token"]


@pytest.mark.parametrize("size", list(LLAMA))
def test_llama_counts_are_the_published_ones(size: str) -> None:
    facts = LLAMA[size]
    config = config_from_dict(facts["config"])
    assert isinstance(config, LlamaConfig)
    assert config.parameter_count == facts["parameters"]
    assert config.kv_bytes_per_token() == facts["kv_bytes_per_token"]


@pytest.mark.parametrize("size", list(OPENELM))
def test_multipliers_and_stored_lists_give_the_same_model(size: str) -> None:
    raw = OPENELM[size]["config"]
    whole = config_from_dict(raw)
    lists_only = {key: value for key, value in raw.items() if key != "qkv_multipliers"}
    pairs_only = {k: v for k, v in raw.items() if k not in ("num_query_heads", "num_kv_heads")}
    assert config_from_dict(lists_only) == whole
    assert config_from_dict(pairs_only | {"ffn_multipliers": [0.5, 4.0]}) == whole


def test_stored_heads_that_disagree_with_the_multipliers_are_refused() -> None:
    raw = OPENELM["270m"]["config"]
    heads = [4, *raw["num_query_heads"][1:]]
    with pytest.raises(BadCheckpoint, match=r"num_query_heads .* disagrees with qkv_multipliers"):
        config_from_dict(raw | {"num_query_heads": heads})


def test_a_scalar_multiplier_makes_uniform_layers() -> None:
    config = config_from_dict(checkpoints.OPENELM | {"qkv_multipliers": 1.5, "ffn_multipliers": 2.0})
    assert set(config.num_heads) == {6}
    assert set(config.ffn_dims) == {128}


def test_both_spellings_of_transformers_give_the_same_llama() -> None:
    older = checkpoints.CONFIGS["llama-3.2"]
    assert config_from_dict(checkpoints.transformers5(older)) == config_from_dict(older)


def test_a_base_inside_the_scaling_counts() -> None:
    scaling = checkpoints.llama3_scaling(8.0)
    inside = {"rope_scaling": scaling | {"rope_theta": 500000.0}}
    assert rope_of(inside) == rope_of({"rope_theta": 500000.0, "rope_scaling": scaling})
    assert rope_of({"rope_parameters": {"rope_theta": 500000.0}}) == RopeConfig(500000.0)
    plain = {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 1.0}
    assert rope_of({"rope_parameters": plain}) == RopeConfig(500000.0)


def test_null_multipliers_leave_the_stored_lists() -> None:
    heads = {"num_query_heads": [3, 3, 6, 6], "num_kv_heads": [1, 1, 2, 2]}
    assert config_from_dict(checkpoints.OPENELM | heads | {"qkv_multipliers": None}).num_heads == (3, 3, 6, 6)


def test_type_is_an_alias_of_rope_type() -> None:
    scaling = checkpoints.llama3_scaling(8.0)
    alias = {"type" if key == "rope_type" else key: value for key, value in scaling.items()}
    assert rope_of({"rope_scaling": alias}) == rope_of({"rope_scaling": scaling})


def test_missing_keys_mean_what_transformers_defaults_say() -> None:
    config = config_from_dict({"model_type": "llama"})
    assert (config.model_dim, config.num_layers, config.vocab_size, config.head_dim) == (4096, 32, 32_000, 128)
    assert (config.norm_eps, config.rope, config.tied, config.num_kv_heads[0]) == (
        1e-6,
        RopeConfig(10_000.0),
        False,
        32,
    )
    openelm = config_from_dict({"model_type": "openelm"})
    assert isinstance(openelm, OpenELMConfig)
    assert (openelm.normalize_qk, openelm.tied, openelm.num_heads[0]) == (False, False, 16)


def test_the_written_form_reads_back_as_the_same_model() -> None:
    for raw in (*checkpoints.CONFIGS.values(), OPENELM["3b"]["config"], LLAMA["3.1-405b"]["config"]):
        config = config_from_dict(raw)
        assert config_from_dict({**config.to_dict(), "bos_token_id": config.bos_token_id,
                                 "eos_token_id": list(config.eos_token_ids)}) == config  # fmt: skip


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": "many"}, "whole number"),
        ({"num_hidden_layers": True}, "whole number"),
        ({"hidden_size": 1.5}, "whole number"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"head_dim": 15}, "even"),
        ({"num_key_value_heads": 4}, "cannot share evenly"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_theta": math.inf}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"hidden_size": None, "num_hidden_layers": [3]}, "whole number"),
        ({"rope_scaling": "llama3"}, "object belongs"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "no factor"),
        ({"rope_scaling": checkpoints.llama3_scaling(8.0) | {"low_freq_factor": 9.0}}, "not below"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}, "two RoPE bases"),
        ({"rope_theta": 1e300}, "rope_theta"),
        ({"rms_norm_eps": 2.0}, "rms_norm_eps"),
        ({"rope_scaling": {"factor": 8.0}}, "names 0 kinds"),
        ({"rope_theta": "abc", "rope_parameters": {"rope_theta": 1e4}}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": None}}, "no factor"),
        ({"rope_scaling": checkpoints.llama3_scaling(8.0) | {"type": "linear"}}, "names 2 kinds"),
        ({"rope_scaling": checkpoints.llama3_scaling(8.0) | {"rope_theta": 1e4}}, "two RoPE bases"),
        ({"rope_scaling": checkpoints.llama3_scaling(1e9)}, "factor"),
        ({"quantization": {"bits": 4}, "quantization_config": {"bits": 8}}, "disagree"),
        ({"eos_token_id": "</s>"}, "token id"),
        ({"eos_token_id": [2, -1]}, "token id"),
        ({"tie_word_embeddings": "yes"}, "true or false"),
        ({"head_dim": None, "num_attention_heads": 7}, "does not divide"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadCheckpoint, match=complaint):
        config_from_dict(checkpoints.LLAMA | change)


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
    ("raw", "named"),
    [
        ({"model_type": "qwen3"}, "'qwen3'.*openelm, llama"),
        (checkpoints.LLAMA | {"hidden_act": "gelu"}, "'gelu'.*silu"),
        (checkpoints.LLAMA | {"attention_bias": True}, "attention_bias"),
        (checkpoints.LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'.*llama3"),
        (checkpoints.LLAMA | {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "'full_attention'"),
        (checkpoints.LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (checkpoints.LLAMA | {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        (checkpoints.LLAMA | {"rope_scaling": {"rope_type": ["llama3"], "factor": 8.0}}, "llama3"),
        (
            checkpoints.LLAMA | {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types 'sliding_attention'",
        ),
        (checkpoints.LLAMA | {"layer_types": "sliding_attention"}, "layer_types 'sliding_attention'"),
        (checkpoints.LLAMA | {"layer_types": [None]}, "layer_types None"),
        (checkpoints.LLAMA | {"sliding_window": 64}, "sliding_window is 64 "),
        (checkpoints.LLAMA | {"model_type": "mistral"}, "sliding_window is 4096 .*where it does not say.* null"),
        (checkpoints.LLAMA | {"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0 "),
        (checkpoints.OPENELM | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling"),
        (checkpoints.OPENELM | {"rope_theta": 500000.0}, "rope_theta"),
        (checkpoints.LLAMA | {"quantization_config": {"quant_method": "gptq"}}, "'gptq'.*affine"),
        (checkpoints.LLAMA | {"quantization": {"bits": 7, "group_size": 64}}, "bits 7"),
        (checkpoints.LLAMA | {"quantization": {"bits": 4, "group_size": 48}}, "group size 48"),
        (checkpoints.LLAMA | {"quantization": {"mode": "ternary"}}, "'ternary'"),
        (checkpoints.OPENELM | {"normalization_layer_name": "layer_norm"}, "'layer_norm'"),
        (checkpoints.OPENELM | {"ffn_with_glu": False}, "ffn_with_glu"),
    ],
)
def test_other_kinds_are_refused_by_name_with_those_that_run(raw: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        config_from_dict(raw)


@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_attention_to_all_positions_may_be_said(model_type: str) -> None:
    said = {"model_type": model_type, "sliding_window": None, "layer_types": ["full_attention"] * 3}
    assert config_from_dict(checkpoints.LLAMA | said) == config_from_dict(checkpoints.LLAMA)


def test_a_config_without_a_model_type_is_no_model() -> None:
    with pytest.raises(BadCheckpoint, match="model_type"):
        config_from_dict({"architectures": ["LlamaForCausalLM"]})


def test_overrides_of_single_layers_are_read_and_written() -> None:
    raw = {"group_size": 64, "bits": 4, "mode": "affine", "lm_head": {"group_size": 64, "bits": 8, "mode": "affine"},
           "model.embed_tokens": False}  # fmt: skip
    setting = Quantization.from_dict(raw)
    assert setting.to_dict() == raw
    assert setting.of("model.embed_tokens.weight", (512, 64)) is None
    head = setting.of("lm_head.weight", (512, 64))
    assert head is not None
    assert head.bits == 8
