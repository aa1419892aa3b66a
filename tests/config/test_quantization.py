"""How the matrices of a configuration are quantized: all alike, single ones otherwise, and in no unknown way."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import checkpoints

from elm_mlx.config import config_from_dict
from elm_mlx.config.quantization import Quantization
from elm_mlx.errors import BadCheckpoint, Unsupported


def test_overrides_of_single_layers_are_read_and_written() -> None:
    raw = {"group_size": 64, "bits": 4, "mode": "affine", "lm_head": {"group_size": 64, "bits": 8, "mode": "affine"},
           "model.embed_tokens": False}  # fmt: skip
    setting = Quantization.from_dict(raw)
    assert setting.to_dict() == raw
    assert setting.of("model.embed_tokens.weight", (512, 64)) is None
    head = setting.of("lm_head.weight", (512, 64))
    assert head is not None
    assert head.bits == 8


def test_two_settings_that_disagree_are_refused() -> None:
    with pytest.raises(BadCheckpoint, match="disagree"):
        config_from_dict(checkpoints.LLAMA | {"quantization": {"bits": 4}, "quantization_config": {"bits": 8}})


@pytest.mark.parametrize(
    "other", [{"bits": 4}, {"bits": 4, "mode": "affine", "group_size": 64}, {"quant_method": "fp8", "bits": 8}]
)
def test_what_mlx_wrote_counts_beside_the_same_and_beside_what_the_source_had(other: dict[str, Any]) -> None:
    raw = checkpoints.LLAMA | {"quantization": {"bits": 4, "group_size": 64}, "quantization_config": other}
    assert config_from_dict(raw).quantization == Quantization(4, 64)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "GPTQ.*`elm-mlx convert` takes this directory"),
        ({"quantization_config": {"quant_method": "fbgemm_fp8"}}, "FP8 .fbgemm.*`elm-mlx convert`"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            "'bitsandbytes'.*tables.*before they were quantized",
        ),
        (
            {"quantization_config": {"quant_method": "new"}},
            "'new'.*does not know that form.*awq, bitnet, compressed-tensors",
        ),
        ({"quantization_config": {"quant_method": ["gptq"]}}, "does not know that form"),
        ({"quantization": {"bits": 7, "group_size": 64}}, "bits 7"),
        ({"quantization": {"bits": 4, "group_size": 48}}, "group size 48"),
        ({"quantization": {"mode": "ternary"}}, "'ternary'"),
    ],
)
def test_other_kinds_are_refused_by_name_with_those_that_run(change: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        config_from_dict(checkpoints.LLAMA | change)
