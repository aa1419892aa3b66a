"""A checkpoint that torch saved, converted by our converter, gives torch's logits: OpenELM is compared with an
independent PyTorch implementation, Llama with transformers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints, goldens

import elm_mlx
from elm_mlx.convert import convert

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
import make_goldens
import torch_models

LLAMA = checkpoints.LLAMA
CONFIGS: dict[str, dict[str, Any]] = {
    **checkpoints.CONFIGS,
    "llama-3.1-untied-mha": LLAMA | {"rope_scaling": checkpoints.llama3_scaling(8.0), "num_key_value_heads": 6},
    "llama-3-head-dim-implied": {k: v for k, v in LLAMA.items() if k != "head_dim"},
    "llama-linear-rope": LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama-theta-1e4": LLAMA | {"rope_theta": 10_000.0, "rms_norm_eps": 1e-6},
    "openelm-two-layers-of-one-width": checkpoints.OPENELM | {"qkv_multipliers": [1.0, 1.0], "num_gqa_groups": 2},
    "openelm-normed-untied": checkpoints.OPENELM | {"share_input_output_layers": False},
}


def save_bin(folder: Path, raw: dict[str, Any], model: Any, shards: int) -> Path:
    """Saves a model as `pytorch_model.bin`, or as its shards with an index; a tied head is saved as torch has it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    checkpoints.add_tokenizer(folder)
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    files = [f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin" for i in range(shards)]
    places = {name: files[i % shards] for i, name in enumerate(state)}
    for file in files:
        torch.save({name: state[name] for name in state if places[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_torch_checkpoint_converts_to_torchs_logits(tmp_path: Path, name: str, shards: int) -> None:
    raw = CONFIGS[name]
    model = torch_models.build(raw, checkpoints.weights(raw, seed=3))
    source = save_bin(tmp_path / "source", raw, model, shards)
    lm = elm_mlx.load(convert(source, tmp_path / "out", dtype="float32").output)
    ids = checkpoints.prompt(200, seed=4)  # six times the original context of the llama3 configurations
    goldens.assert_close(lm.logits(ids), torch_models.logits(model, ids))
    drawn = [piece.token for piece in lm.stream(ids[:50], 16)]
    assert drawn == torch_models.greedy(model, ids[:50], 16)[: len(drawn)]


@pytest.mark.parametrize("name", ["llama-3.1", "llama-3.2"])
def test_a_checkpoint_that_transformers_saved_converts(tmp_path: Path, name: str) -> None:
    """transformers writes config.json, in its newer spelling, and the safetensors."""
    raw = checkpoints.CONFIGS[name]
    model = torch_models.build(raw, checkpoints.weights(raw))
    model.save_pretrained(tmp_path / "source")
    assert "rope_parameters" in json.loads((tmp_path / "source/config.json").read_text(encoding="utf-8"))
    checkpoints.add_tokenizer(tmp_path / "source")
    ids = checkpoints.prompt(120)
    expected = torch_models.logits(model, ids)
    goldens.assert_close(elm_mlx.load(tmp_path / "source").logits(ids), expected)
    output = convert(tmp_path / "source", tmp_path / "out", dtype="float32").output
    goldens.assert_close(elm_mlx.load(output).logits(ids), expected)


@pytest.mark.parametrize("name", ["llama-3", "llama-3.1", "llama-3.2"])
def test_transformers_reads_our_output_as_the_same_model(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    source = checkpoints.write(tmp_path / "source", checkpoints.CONFIGS[name])
    output = convert(source, tmp_path / "out", dtype="float32").output
    theirs = AutoModelForCausalLM.from_pretrained(output).eval()
    ids = checkpoints.prompt(120)
    goldens.assert_close(elm_mlx.load(output).logits(ids), torch_models.logits(theirs, ids))


@pytest.mark.parametrize("name", list(checkpoints.CONFIGS))
def test_the_golden_files_are_what_torch_computes(name: str) -> None:
    computed = make_goldens.compute(name)
    logits, greedy = goldens.load(name)
    assert np.abs(computed["logits"] - logits).max() <= 1e-5 * np.abs(logits).max()
    assert computed["greedy"].tolist() == greedy


@pytest.mark.parametrize("name", ["openelm", "llama-3.1"])
def test_sixteen_bit_logits_are_as_near_to_float32_as_torchs(tmp_path: Path, name: str) -> None:
    """bfloat16 rounds at each step; ours may lie at most 1.5 times as far from float32 as torch's own."""
    raw = checkpoints.CONFIGS[name]
    model = torch_models.build(raw, checkpoints.weights(raw)).bfloat16()
    source = save_bin(tmp_path / "source", raw, model, 1)
    lm = elm_mlx.load(convert(source, tmp_path / "out").output, cpu_policy="plain")
    ids = checkpoints.prompt()
    ours, theirs = np.array(lm.logits(ids)), torch_models.logits(model, ids)
    exact = torch_models.logits(model.float(), ids)
    assert np.sqrt(((ours - exact) ** 2).mean()) <= 1.5 * np.sqrt(((theirs - exact) ** 2).mean())
