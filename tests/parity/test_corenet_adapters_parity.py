"""CoreNet's LoRA and DoRA checkpoints, made by real PEFT layers as CoreNet makes them: what is merged is what these
layers compute, and the head that CoreNet takes from its embedding's layer has no sum."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from elm_mlx.convert.sources import corenet_adapters
from elm_mlx.convert.torch_file import read_torch_file

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

HOW = {"adapter_name": "lora", "r": 32, "lora_alpha": 32, "lora_dropout": 0.1, "use_rslora": False}


class Pieces(torch.nn.Module):  # type: ignore[misc]
    """The two kinds of layers, by CoreNet's names."""

    def __init__(self, dora: bool) -> None:
        super().__init__()
        config, lora = peft.LoraConfig(r=32, lora_alpha=32, lora_dropout=0.1, use_dora=dora), peft.tuners.lora
        table, matrix = torch.nn.Embedding(90, 48, padding_idx=80), torch.nn.Linear(48, 64, bias=False)
        attn = torch.nn.Module()
        self.token_embeddings = lora.Embedding(table, **HOW, config=config)
        attn.qkv_proj = lora.Linear(matrix, **HOW, config=config)
        layer = torch.nn.Module()
        layer.attn = attn
        self.layers = torch.nn.ModuleList([layer])


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_merged_matrices_are_what_pefts_layers_compute(dora: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Pieces(dora).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        ids, states = torch.arange(90), torch.eye(48)
        table = model.token_embeddings(ids).numpy()
        product = model.layers[0].attn.qkv_proj(states).T.numpy()
        head = model.token_embeddings.weight.numpy()
    torch.save(model.state_dict(), tmp_path / "openelm_lora.pt")
    tensors, kind = corenet_adapters.merge(tmp_path, read_torch_file(tmp_path / "openelm_lora.pt"))
    assert kind == ("DoRA" if dora else "LoRA")
    assert np.abs(np.array(tensors["token_embeddings.weight"].read()) - table).max() < 1e-5
    assert np.abs(np.array(tensors["layers.0.attn.qkv_proj.weight"].read()) - product).max() < 1e-5
    assert mx.array_equal(tensors["classifier.weight"].read(), mx.array(head))
    assert not np.allclose(head, table)
