"""Checkpoints saved by torch in each layout, through our converter, give the original's logits."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints, goldens

import elm_mlx
from elm_mlx.convert import convert

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
import torch_models

IDS = checkpoints.prompt(150, seed=4)
# Hugging Face's name of a tensor, Meta's name, and the axis along which Meta's shards divide it (None: all have it).
METAS = {
    "model.embed_tokens.weight": ("tok_embeddings.weight", 0),
    "lm_head.weight": ("output.weight", 0),
    "model.norm.weight": ("norm.weight", None),
    "input_layernorm": ("attention_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
    "self_attn.q_proj": ("attention.wq", 0),
    "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0),
    "self_attn.o_proj": ("attention.wo", 1),
    "mlp.gate_proj": ("feed_forward.w1", 0),
    "mlp.up_proj": ("feed_forward.w3", 0),
    "mlp.down_proj": ("feed_forward.w2", 1),
}


def save_meta(folder: Path, model: Any, params: dict[str, Any], count: int, copies: int) -> Path:
    """Saves transformers' model as Meta's shards: rows of queries and keys interleaved, key/value heads repeated."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
    checkpoints.add_tokenizer(folder)
    width, shards = params["dim"] // params["n_heads"], [dict[str, Any]() for _ in range(count)]
    for name, tensor in model.state_dict().items():
        theirs = next(key for key in METAS if key in name)
        metas, axis = METAS[theirs]
        metas = name.replace(theirs, metas).removeprefix("model.")
        if metas.endswith(("wq.weight", "wk.weight")):
            first, second = tensor.view(-1, 2, width // 2, tensor.shape[1]).unbind(1)
            tensor = torch.stack([first, second], 2).reshape(tensor.shape)
        if metas.endswith(("wk.weight", "wv.weight")):
            tensor = tensor.unflatten(0, (-1, width)).repeat_interleave(copies, 0).flatten(0, 1)
        for rank, shard in enumerate(shards):
            shard[metas] = tensor if axis is None else tensor.chunk(count, axis)[rank].clone()
    for rank, shard in enumerate(shards):
        torch.save(shard, folder / f"consolidated.{rank:02d}.pth")
    return folder


@pytest.mark.parametrize(("shards", "copies", "counted"), [(1, 1, 1), (2, 1, 1), (4, 2, 2), (8, 4, 4), (8, 4, 1)])
@pytest.mark.parametrize("scaled", [False, True])
def test_metas_shards_convert_to_transformers_logits(
    tmp_path: Path, shards: int, copies: int, counted: int, scaled: bool
) -> None:
    raw = checkpoints.META
    if scaled:
        raw = raw | {"rope_scaling": checkpoints.llama3_scaling(8.0) | {"original_max_position_embeddings": 8192}}
    model = torch_models.build(raw, checkpoints.weights(raw, seed=3))
    params = checkpoints.META_PARAMS | {"use_scaled_rope": scaled, "n_kv_heads": 2 * counted, "vocab_size": -1}
    source = save_meta(tmp_path / "source", model, params, shards, copies)
    output = convert(source, tmp_path / "out", dtype="float32").output
    goldens.assert_close(elm_mlx.load(output).logits(IDS), torch_models.logits(model, IDS))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("beside", ["config.yaml", "config.json"])
def test_corenets_checkpoint_converts_to_the_original_logits(tmp_path: Path, prefix: str, beside: str) -> None:
    """The checkpoint lies beside CoreNet's yaml or Apple's short config.json; its embedding has rows that no id
    reaches."""
    raw = checkpoints.OPENELM
    model = torch_models.build(raw, checkpoints.weights(raw, seed=3))
    state = {prefix + name.removeprefix("transformer."): value for name, value in model.state_dict().items()}
    table = f"{prefix}token_embeddings.weight"
    state[table] = torch.cat([state[table], torch.randn(128, raw["model_dim"])])
    source = tmp_path / "source"
    source.mkdir()
    checkpoints.add_tokenizer(source)
    torch.save(state, source / "checkpoint_average.pt")
    facts = {"model_name": "tiny", "vocab_size": 640, "max_context_length": 512, "padding_index": 512}
    whole = {"model": {"language_modeling": {"name": "general_gpt", "general_gpt": facts}}}
    (source / beside).write_text(json.dumps(whole if beside.endswith("yaml") else facts), encoding="utf-8")
    done = convert(source, tmp_path / "out", dtype="float32")
    assert done.dropped == [f"{table}[512:]"]
    goldens.assert_close(elm_mlx.load(done.output).logits(IDS), torch_models.logits(model, IDS))


def test_mistral_without_a_window_converts_to_transformers_logits(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    raw = {key: value for key, value in checkpoints.LLAMA.items() if key not in ("model_type", "architectures")}
    config = MistralConfig(**raw, sliding_window=None, attn_implementation="eager")
    model = MistralForCausalLM(config).eval()
    weights = checkpoints.weights(checkpoints.LLAMA, seed=3)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    model.save_pretrained(tmp_path / "source")
    checkpoints.add_tokenizer(tmp_path / "source")
    output = convert(tmp_path / "source", tmp_path / "out", dtype="float32").output
    goldens.assert_close(elm_mlx.load(output).logits(IDS), torch_models.logits(model, IDS))


def whole_beside_a_stale_index(folder: Path) -> None:
    checkpoints.save(folder, {"a": mx.zeros(3)}, shards=2)
    for shard in folder.glob("model-*"):
        shard.unlink()


def in_shards(folder: Path, edit: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """Deals the weights to two shards whose index is changed by `edit`."""
    arrays = mx.load(str(folder / "model.safetensors"))
    assert isinstance(arrays, dict)
    mx.eval(arrays)
    (folder / "model.safetensors").unlink()
    checkpoints.save(folder, arrays, shards=2)
    index = folder / "model.safetensors.index.json"
    raw = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps(raw | {"weight_map": edit(raw["weight_map"])}), encoding="utf-8")


def shards_in_a_folder(folder: Path) -> None:
    in_shards(folder, lambda places: {name: f"parts/{file[10]}.safetensors" for name, file in places.items()})
    (folder / "parts").mkdir()
    for shard in folder.glob("model-*.safetensors"):
        shard.rename(folder / "parts" / f"{shard.name[10]}.safetensors")


def index_that_places_a_tied_head(folder: Path) -> None:
    in_shards(folder, lambda places: places | {"lm_head.weight": min(places.values())})


def index_that_places_each_in_the_other_file(folder: Path) -> None:
    in_shards(folder, lambda p: {name: file.replace("01-", "12-").replace("02-", "01-").replace("12-", "02-")
                                 for name, file in p.items()})  # fmt: skip


def renamed(folder: Path, old: str, new: str) -> None:
    arrays = mx.load(str(folder / "model.safetensors"))
    assert isinstance(arrays, dict)
    mx.eval(arrays)
    checkpoints.save(folder, {re.sub(old, new, name): array for name, array in arrays.items()})


def a_head_alone(folder: Path) -> None:
    renamed(folder, r"^model\.embed_tokens", "lm_head")


def no_head(folder: Path) -> None:
    renamed(folder, r"^model\.", "")


def a_part_of_a_model(folder: Path) -> None:
    renamed(folder, "^", "model.")


@pytest.mark.parametrize("change", [whole_beside_a_stale_index, shards_in_a_folder, index_that_places_a_tied_head,
                                    index_that_places_each_in_the_other_file, a_head_alone, no_head,
                                    a_part_of_a_model])  # fmt: skip
def test_what_transformers_reads_is_read_the_same(tmp_path: Path, change: Callable[[Path], None]) -> None:
    from transformers import AutoModelForCausalLM

    folder = checkpoints.write(tmp_path / "m", checkpoints.CONFIGS["llama-3.2"])
    change(folder)
    theirs = torch_models.logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), IDS)
    output = convert(folder, tmp_path / "out", dtype="float32").output
    goldens.assert_close(elm_mlx.load(output).logits(IDS), theirs)
    if change not in (no_head, a_part_of_a_model):
        goldens.assert_close(elm_mlx.load(folder).logits(IDS), theirs)
