"""Over random shapes and ways of storing: ranks together compute what one machine computes."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, quantized
from helpers.logits import logits_of, whole
from helpers.ranks import in_ranks, share

from elm_mlx.distributed.part import PIPELINE, TENSOR, Kind
from elm_mlx.errors import Unsupported
from elm_mlx.store.load import read_config


def compare(folder: Path, kind: Kind, ranks: int) -> None:
    """Compares the logits of ranks with those of one machine, and so the ids that would be drawn from them."""
    config = read_config(folder)

    def logits(group: Any) -> list[np.ndarray]:
        model = share(folder, config, kind, group)
        return logits_of(model, model.config.num_layers)

    first, *_ = in_ranks(ranks, logits)
    for expected, found in zip(whole(folder, config), first, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
        assert (found.argmax(-1) == expected.argmax(-1)).all()


def random_llama(random: np.random.RandomState, ranks: int) -> dict[str, Any]:
    """A Llama's configuration that so many ranks can share, in float32 or in few bits."""
    kv_heads = ranks * random.randint(1, 3)
    raw = checkpoints.LLAMA | {
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * int(random.randint(1, 4)),
        "head_dim": 32 * int(random.randint(1, 3)),
        "hidden_size": 32 * int(random.randint(1, 5)),
        "intermediate_size": 32 * ranks * int(random.randint(1, 4)),
        "num_hidden_layers": int(random.randint(ranks, 5)),
        "vocab_size": int(random.randint(checkpoints.VOCAB, 900)),
        "tie_word_embeddings": bool(random.randint(2)),
    }
    kind = random.choice(["llama", "mobilellm", "mobillama"])
    return raw | {"model_type": kind} | ({"layer_sharing": True} if kind == "mobilellm" else {})


def random_openelm(random: np.random.RandomState, ranks: int) -> dict[str, Any]:
    """An OpenELM's configuration with at least so many layers, each with its own widths."""
    layers = int(random.randint(ranks, 6))
    multipliers = sorted(random.choice([0.5, 1.0, 1.5, 2.0, 3.0], 2))
    return checkpoints.OPENELM | {
        "num_transformer_layers": layers,
        "ffn_multipliers": multipliers,
        "num_gqa_groups": int(random.choice([1, 2, 3])),
        "share_input_output_layers": bool(random.randint(2)),
        "vocab_size": int(random.randint(checkpoints.VOCAB, 900)),
    }


def random_setting(random: np.random.RandomState, raw: dict[str, Any]) -> dict[str, Any] | None:
    """How its matrices are stored: floats, one way for all, or another one for some of them."""
    if random.randint(4) == 0:
        return None
    setting: dict[str, Any] = {"bits": int(random.choice([2, 3, 4, 5, 6, 8])), "group_size": 32}
    if raw["model_type"] == "llama" and random.randint(2):
        setting["model.layers.0.self_attn.q_proj"] = {"bits": 8, "group_size": 32}
        setting["model.layers.0.mlp.down_proj"] = {"bits": 6, "group_size": 32}
        setting["model.embed_tokens"] = False
    return setting


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 60))])
def test_random_models(seed: int, tmp_path: Path) -> None:
    random = np.random.RandomState(seed)
    ranks = int(random.randint(2, 5))
    kind = (TENSOR, PIPELINE)[seed % 2]
    raw = random_openelm(random, ranks) if seed % 4 == 1 else random_llama(random, min(ranks, 4))
    setting = random_setting(random, raw)
    if setting:
        quantized.write(tmp_path, raw, setting)
    else:
        checkpoints.write(tmp_path, raw, tokenizer=False)
    compare(tmp_path, kind, ranks)  # type: ignore[arg-type]


EVEN = checkpoints.LLAMA | {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 128,
                            "intermediate_size": 256, "num_hidden_layers": 2}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "mxfp4": {"mode": "mxfp4", "bits": 4, "group_size": 32},
    "mxfp8": {"mode": "mxfp8", "bits": 8, "group_size": 32},
    "nvfp4": {"mode": "nvfp4", "bits": 4, "group_size": 16},
    "groups of 128": {"bits": 4, "group_size": 128},
    "embedding alone in floats": {"bits": 4, "group_size": 64, "model.embed_tokens": False},
    "q, k, v apart": {"bits": 4, "group_size": 64, "model.layers.1.self_attn.k_proj": {"bits": 8, "group_size": 32},
                      "model.layers.0.self_attn.v_proj": False, "model.layers.0.mlp.up_proj": False},
}  # fmt: skip


FAST = {("mxfp4", True, TENSOR), ("q, k, v apart", False, TENSOR), ("embedding alone in floats", True, TENSOR)}


@pytest.mark.parametrize(("way", "tied", "kind"), [
    pytest.param(*one, marks=() if one in FAST else pytest.mark.slow)
    for one in product(WAYS, (True, False), (TENSOR, PIPELINE))
])  # fmt: skip
def test_ways_of_storing(way: str, tied: bool, kind: Kind, tmp_path: Path) -> None:
    compare(quantized.write(tmp_path, EVEN | {"tie_word_embeddings": tied}, WAYS[way]), kind, 2)


def test_groups_that_would_be_cut_through_are_refused(tmp_path: Path) -> None:
    raw = EVEN | {"intermediate_size": 192}
    folder = quantized.write(tmp_path, raw, {"bits": 4, "group_size": 64})
    with pytest.raises(Unsupported, match="down_proj has 192 columns in groups of 64"):
        compare(folder, TENSOR, 2)
    compare(folder, PIPELINE, 2)


def test_types_of_floats_are_those_of_the_whole_model(tmp_path: Path) -> None:
    """A pipeline's lower ranks have no embedding, whose type is the model's."""
    checkpoints.write(tmp_path, EVEN, tokenizer=False)
    arrays = mx.load(str(tmp_path / "model.safetensors"))
    assert isinstance(arrays, dict)
    mixed = {name: array.astype(mx.bfloat16 if "embed" in name else mx.float32) for name, array in arrays.items()}
    checkpoints.save(tmp_path, mixed)
    config = read_config(tmp_path)
    for kind in (TENSOR, PIPELINE):
        dtypes = in_ranks(2, lambda group: share(tmp_path, config, kind, group).dtype)  # noqa: B023
        assert {*dtypes} == {mx.bfloat16}
