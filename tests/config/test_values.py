"""What a configuration says of any family: a kind of model, numbers that can be, and nothing lost when written."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers import checkpoints

from elm_mlx.config import config_from_dict
from elm_mlx.errors import BadCheckpoint, Unsupported

PUBLISHED = checkpoints.PUBLISHED


def test_the_written_form_reads_back_as_the_same_model() -> None:
    large = PUBLISHED["openelm"]["3b"]["config"], PUBLISHED["llama"]["3.1-405b"]["config"]
    for raw in (*checkpoints.CONFIGS.values(), *large):
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
        ({"hidden_size": None, "num_hidden_layers": [3]}, "whole number"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps"),
        ({"rms_norm_eps": 2.0}, "rms_norm_eps"),
        ({"eos_token_id": "</s>"}, "token id"),
        ({"eos_token_id": [2, -2]}, "token id"),
        ({"tie_word_embeddings": "yes"}, "true or false"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadCheckpoint, match=complaint):
        config_from_dict(checkpoints.LLAMA | change)


def test_minus_one_is_no_token_as_in_sentencepiece() -> None:
    assert config_from_dict(checkpoints.LLAMA | {"eos_token_id": -1, "bos_token_id": -1}).eos_token_ids == ()
    config = config_from_dict(checkpoints.OPENELM | {"eos_token_id": [2, -1], "bos_token_id": -1})
    assert (config.bos_token_id, config.eos_token_ids) == (None, (2,))


def test_another_family_is_refused_with_those_that_run() -> None:
    with pytest.raises(Unsupported, match=r"'qwen3'.*openelm, llama"):
        config_from_dict({"model_type": "qwen3"})


def test_a_config_without_a_model_type_is_no_model() -> None:
    with pytest.raises(BadCheckpoint, match="model_type"):
        config_from_dict({"architectures": ["LlamaForCausalLM"]})
