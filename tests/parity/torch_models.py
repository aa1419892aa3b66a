"""The PyTorch side of the parity suite: Llama from transformers, and OpenELM written independently of elm_mlx."""

from __future__ import annotations

from typing import Any

import numpy as np
import openelm_torch
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def build(raw: dict[str, Any], weights: dict[str, np.ndarray]) -> torch.nn.Module:
    """The PyTorch model of a config.json with these weights, in float32."""
    if raw["model_type"] == "openelm":
        model: torch.nn.Module = openelm_torch.OpenELM(raw)
    else:
        model = LlamaForCausalLM(LlamaConfig(**raw, attn_implementation="eager"))
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied
    return model.eval()


@torch.no_grad()
def logits(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    """Logits [L, V] of one full forward pass."""
    out = model(torch.tensor([ids]))
    return np.asarray((out if isinstance(out, torch.Tensor) else out.logits)[0].float())


def greedy(model: torch.nn.Module, ids: list[int], count: int) -> list[int]:
    """`count` greedy ids, each from a full forward pass without any cache."""
    drawn: list[int] = []
    for _ in range(count):
        drawn.append(int(logits(model, ids + drawn)[-1].argmax()))
    return drawn
