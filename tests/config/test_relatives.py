"""The published shapes of Llama's relatives, and what their configurations say in words of their own."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import relatives

from elm_mlx.config import BitNetConfig, LlamaConfig, config_from_dict
from elm_mlx.device.chips import Step, work_of
from elm_mlx.errors import Unsupported
from elm_mlx.library.names import known_models

# hidden size, blocks, heads, key/value heads, FFN: the publishers' config.json
MOBILELLM = {
    "mobilellm-125m": (576, 30, 9, 3, 1536),
    "mobilellm-350m": (960, 32, 15, 5, 2560),
    "mobilellm-600m": (1152, 40, 18, 6, 3072),
    "mobilellm-1b": (1280, 54, 20, 5, 3584),
    "mobilellm-1.5b": (1600, 54, 25, 5, 4352),
}
MOBILLAMA = {"mobillama-0.5b": (2048, 22, 32, 4, 5632), "mobillama-0.8b": (2560, 22, 32, 4, 10240)}
BITNET = {"bitnet-2b-instruct": (2560, 30, 20, 5, 6912)}
KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")


def published(model_type: str, shape: tuple[int, ...], **more: Any) -> dict[str, Any]:
    return {"model_type": model_type, "vocab_size": 32_000, "rms_norm_eps": 1e-5, **dict(zip(KEYS, shape, strict=True)),
            **more}  # fmt: skip


PUBLISHED = {
    **{name: published("mobilellm", shape, share_embedding=True) for name, shape in MOBILELLM.items()},
    **{f"{name}-ls": published("mobilellm", MOBILELLM[name], share_embedding=True, layer_sharing=True)
       for name in ("mobilellm-125m", "mobilellm-350m")},
    **{name: published("mobillama", shape) for name, shape in MOBILLAMA.items()},
    **{name: published("bitnet", shape, vocab_size=128_256, tie_word_embeddings=True, hidden_act="relu2")
       for name, shape in BITNET.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_known_models_have_the_parameters_of_their_published_shapes(name: str) -> None:
    assert config_from_dict(PUBLISHED[name]).parameter_count == known_models()[name].parameters


def test_mobillama_stores_a_third_of_what_it_computes_with() -> None:
    config = config_from_dict(PUBLISHED["mobillama-0.5b"])
    assert isinstance(config, LlamaConfig)
    assert (config.parameter_count, config.unshared().parameter_count) == (373_385_216, 1_100_048_384)


def test_shared_layers_are_twice_as_many_as_blocks_and_each_has_a_cache() -> None:
    config, plain = (config_from_dict(PUBLISHED[name]) for name in ("mobilellm-125m-ls", "mobilellm-125m"))
    assert (config.num_blocks, config.num_layers, len(config.cached_heads)) == (30, 60, 60)
    assert config.kv_bytes_per_token() == 2 * plain.kv_bytes_per_token()
    step = Step(2 * plain.parameter_count, 16, False, 100)
    once, twice = work_of(plain, step), work_of(config, step)
    assert twice.kernels - once.kernels == 30 * 13
    layers = plain.parameter_count - 32_000 * 576 - 576  # all but the embedding and the last norm
    assert twice.nbytes - once.nbytes == pytest.approx(2 * layers + 100 * plain.kv_bytes_per_token())


@pytest.mark.parametrize("raw", [relatives.MOBILELLM, relatives.MOBILELLM_LS, relatives.MOBILLAMA, relatives.BITNET])
def test_what_is_written_reads_as_it_was(raw: dict[str, Any]) -> None:
    config = config_from_dict(raw)
    kept = {key: raw[key] for key in ("bos_token_id", "eos_token_id", "hidden_act")}
    assert config_from_dict(kept | config.to_dict()) == config


def test_layer_sharing_counts_in_mobilellm_alone() -> None:
    """Every other program runs each layer of a Llama once, whatever else its configuration says."""
    assert config_from_dict(relatives.LLAMA | {"layer_sharing": True}).num_layers == relatives.LAYERS
    assert config_from_dict(relatives.MOBILELLM | {"layer_sharing": None}).num_layers == relatives.LAYERS


def test_bitnet_is_no_llama_with_another_gate() -> None:
    assert isinstance(config_from_dict(relatives.BITNET), BitNetConfig)
    for change in ({"hidden_act": "silu"}, {"hidden_act": "gelu"}):
        with pytest.raises(Unsupported, match="hidden_act"):
            config_from_dict(relatives.BITNET | change)
    with pytest.raises(Unsupported, match="hidden_act"):
        config_from_dict(relatives.LLAMA | {"hidden_act": "relu2"})
