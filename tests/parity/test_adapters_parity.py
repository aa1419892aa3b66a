"""Adapters that PEFT has written run here with torch's logits, and those written here run there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from helpers.adapters import made_sums, write_sums

import elm_mlx
from elm_mlx.errors import ElmError
from elm_mlx.store.adapters.write import PEFT

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))
import torch_models

RAW = checkpoints.CONFIGS["llama-3.1"]
IDS = checkpoints.prompt(60)
BOUND = 1e-4  # of the largest logit
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VARIANTS: dict[str, dict[str, Any]] = {
    "q and v": {"target_modules": ["q_proj", "v_proj"]},
    "all": {"target_modules": ALL},
    "rslora": {"target_modules": ALL, "use_rslora": True},
    "dora": {"target_modules": ALL, "use_dora": True},
    "dora on k and up": {"target_modules": ["k_proj", "up_proj"], "use_dora": True},
    "patterns": {
        "target_modules": ALL,
        "rank_pattern": {"k_proj": 2, "model.layers.1.mlp.up_proj": 7},
        "alpha_pattern": {"v_proj": 3, "layers.0.self_attn.q_proj": 20},
    },
    "rslora with patterns": {"target_modules": ALL, "use_rslora": True, "rank_pattern": {"o_proj": 2}},
    "dora with patterns": {
        "target_modules": ALL,
        "use_dora": True,
        "rank_pattern": {"v_proj": 2, "layers.1.mlp.gate_proj": 6},
        "alpha_pattern": {"q_proj": 9},
    },
    "rslora and dora": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "use_dora": True},
    "all that is linear but the head": {"target_modules": "all-linear"},
    "all but one": {"target_modules": ALL, "exclude_modules": ["up_proj"]},
    "one layer": {"target_modules": ALL, "layers_to_transform": [1]},
    "a suffix as an expression": {"target_modules": r".*\.mlp\.(up|down)_proj"},
}


def torch_model() -> Any:
    return torch_models.build(RAW, checkpoints.weights(RAW))


def logits_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = model(input_ids=torch.tensor([IDS])).logits[0].numpy()
    return found


def made_with_peft(folder: Path, **settings: Any) -> np.ndarray:
    """Writes an adapter whose numbers are all random, and returns its logits."""
    torch.manual_seed(0)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | settings)
    model = peft.get_peft_model(torch_model(), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter) + ("magnitude" in name))
    model.eval()
    model.save_pretrained(str(folder))
    return logits_of(model)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write(tmp_path_factory.mktemp("llama"), RAW)


def assert_near(ours: mx.array, other: np.ndarray) -> None:
    assert np.abs(np.array(ours) - other).max() <= BOUND * np.abs(other).max()


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_an_adapter_of_peft_gives_torchs_logits(llama: Path, tmp_path: Path, variant: str) -> None:
    expected = made_with_peft(tmp_path, **VARIANTS[variant])
    with elm_mlx.load(llama) as lm:
        lm.load_adapter("theirs", tmp_path)
        assert_near(lm.logits(IDS, adapter="theirs"), expected)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_an_adapter_that_is_written_here_runs_in_peft(llama: Path, tmp_path: Path, dora: bool) -> None:
    sums = made_sums(llama, dora=dora) | made_sums(llama, 5, dora=dora, rank=2, ends=("k_proj",))
    write_sums(tmp_path, llama, sums, PEFT, scale=0.5)
    model = peft.PeftModel.from_pretrained(torch_model(), str(tmp_path)).eval()
    with elm_mlx.load(llama) as lm:
        lm.load_adapter("ours", tmp_path)
        assert_near(lm.logits(IDS, adapter="ours"), logits_of(model))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "lora_embedding"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "olora"),
    ],
)
def test_what_is_more_than_sums_beside_layers_is_refused_by_name(
    llama: Path, tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    made_with_peft(tmp_path, **settings)
    with elm_mlx.load(llama) as lm, pytest.raises(ElmError, match=named):
        lm.load_adapter("theirs", tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
