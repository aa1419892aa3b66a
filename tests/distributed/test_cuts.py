"""Cuts of tensors: what ranks hold together is the model, each of it once, and what cannot be cut is refused."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import checkpoints

from elm_mlx.config import ModelConfig, config_from_dict
from elm_mlx.distributed.cuts import check_tensor, tensor_share
from elm_mlx.distributed.part import TENSOR, Part
from elm_mlx.errors import Unsupported

LLAMA_405B = {"hidden_size": 16384, "num_attention_heads": 128, "num_key_value_heads": 8, "intermediate_size": 53248,
              "num_hidden_layers": 126, "vocab_size": 128256, "head_dim": 128}  # fmt: skip


def llama(**changes: Any) -> ModelConfig:
    return config_from_dict(checkpoints.LLAMA | changes)


@pytest.mark.parametrize("vocabulary", [512, 517, 131])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_hold_each_row_and_column_once(ranks: int, vocabulary: int) -> None:
    config = llama(num_key_value_heads=4, num_attention_heads=8, vocab_size=vocabulary)
    shares = [tensor_share(config, Part(TENSOR, rank, ranks)) for rank in range(ranks)]
    for name, shape in config.weight_shapes().items():
        cuts = [share.cuts[name] for share in shares]
        if len(shape) == 1:
            assert all(cut.shape(shape) == shape for cut in cuts)
            continue
        assert [cuts[0].begin, *(cut.end for cut in cuts)] == [*(cut.begin for cut in cuts), shape[cuts[0].axis]]


def test_405b_is_cut_as_its_facts_say() -> None:
    config = llama(**LLAMA_405B)
    assert config.parameter_count == 405_853_388_800
    share = tensor_share(config, Part(TENSOR, 3, 8))
    assert share.held.num_kv_heads == (1,) * 126
    assert share.parameter_count / config.parameter_count == pytest.approx(1 / 8, rel=1e-3)
    with pytest.raises(
        Unsupported, match=r"16 machines .*8 key/value heads do not divide by 16\. 2, 4 or 8 can\. Whole"
    ):
        check_tensor(config, 16)


@pytest.mark.parametrize(("changes", "ranks", "why"), [
    ({"num_key_value_heads": 3, "num_attention_heads": 6, "intermediate_size": 96}, 2,
     r"3 key/value heads do not divide by 2\. 3 can\. Whole"),
    ({"intermediate_size": 129, "num_key_value_heads": 2}, 2,
     r"129 columns of a feed-forward do not divide by 2\. Whole"),
    ({"vocab_size": 8}, 2, "its vocabulary of 8 would leave some of them without a token"),
    ({"quantization": {"bits": 4, "group_size": 32}, "head_dim": 16}, 2,
     "model.layers.0.self_attn.o_proj has 96 columns in groups of 32, which do not fill 2 equal parts"),
    ({"quantization": {"bits": 4, "group_size": 128, "model.layers.1.mlp.down_proj": {"bits": 4, "group_size": 128}},
      "intermediate_size": 128}, 2, "mlp.down_proj has 128 columns in groups of 128"),
])  # fmt: skip
def test_counts_that_do_not_divide_are_refused_with_those_that_do(
    changes: dict[str, Any], ranks: int, why: str
) -> None:
    with pytest.raises(Unsupported, match=why) as caught:
        check_tensor(llama(**changes), ranks)
    assert str(caught.value).endswith("Whole layers can be dealt to up to 3. Give parallel=pipeline for that.")


@pytest.mark.parametrize(
    "raw", [checkpoints.OPENELM, checkpoints.LLAMA | {"model_type": "bitnet", "hidden_act": "relu2"}]
)
def test_other_families_are_refused_by_name(raw: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=f"model of the kind {raw['model_type']}: .* Give parallel=pipeline"):
        check_tensor(config_from_dict(raw), 2)


def test_a_hostile_number_of_heads_costs_little() -> None:
    config = llama(num_key_value_heads=999_983, num_attention_heads=999_983, head_dim=2, num_hidden_layers=1000)
    with pytest.raises(Unsupported, match=r"by 2\. Whole layers"):
        check_tensor(config, 2)
