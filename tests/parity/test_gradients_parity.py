"""Gradients of all that an adapter trains equal torch's: of both families, all four products, LoRA and DoRA.

Llama with peft's own layers. OpenELM in the tests' own torch model, with sums written here by the papers' formulas.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from helpers.adapters import made_sums

from elm_mlx.store.load import load_directory
from elm_mlx.train.examples import Batch, Example, batch_of
from elm_mlx.train.loss import summed_loss
from elm_mlx.train.trainable import AdapterArrays, AdapterShape

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))
import torch_models

RANK, SCALE = 4, 1.5
BOUND = 1e-4  # of the largest gradient of an array
PEFT_PARTS = {"lora_a": "lora_A.default.weight", "lora_b": "lora_B.default.weight",
              "m": "lora_magnitude_vector.default.weight"}  # fmt: skip
EXAMPLES = [
    Example(tuple(checkpoints.prompt(24, 1)), (True,) * 23),
    Example(tuple(checkpoints.prompt(17, 2)), (False,) * 6 + (True,) * 10),  # of which the prompt does not count
]


class Beside(torch.nn.Module):
    """W x + s B A x, and with m the rows of the sum scaled to these lengths: LoRA, and DoRA's section 4.3, by which the
    length that a row has is a constant to the gradient."""

    def __init__(self, base: torch.nn.Linear, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.base = base
        self.lora_a, self.lora_b = (torch.nn.Parameter(torch.from_numpy(arrays[name])) for name in ("lora_a", "lora_b"))
        self.m = torch.nn.Parameter(torch.from_numpy(arrays["m"])) if "m" in arrays else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.base.weight + SCALE * (self.lora_a @ self.lora_b).T
        if self.m is not None:
            weight = weight * (self.m / weight.norm(dim=1).detach())[:, None]
        return x @ weight.T


def made_arrays(source: Path, *, dora: bool) -> dict[str, mx.array]:
    """Numbers for all that an adapter of the model trains, none of them 0, by their names in its file."""
    arrays = {}
    for name, one in made_sums(source, dora=dora).items():
        arrays |= {f"{name}.lora_a": one.a, f"{name}.lora_b": 0.2 * one.b}
        arrays |= {f"{name}.m": one.m} if one.m is not None else {}
    return arrays


def ours(source: Path, arrays: dict[str, mx.array], *, dora: bool) -> tuple[float, dict[str, np.ndarray]]:
    """(the loss, the gradients by the names of their arrays)."""
    model = load_directory(source).model
    adapter = AdapterArrays(model, AdapterShape(RANK, SCALE, dora))

    def loss(arrays: dict[str, mx.array], batch: Batch) -> mx.array:
        adapter.put(arrays)
        return summed_loss(model, batch.ids, batch.counts) / batch.targets

    found, gradients = mx.value_and_grad(loss)(arrays, batch_of(EXAMPLES))
    return found.item(), {name: np.array(one) for name, one in gradients.items()}


def loss_of(model: Any) -> Any:
    """The same loss in torch, a row at a time: nothing is padded."""
    lost = torch.zeros(())
    for example in EXAMPLES:
        out = model(torch.tensor([example.ids[:-1]]))
        logits = (out if isinstance(out, torch.Tensor) else out.logits)[0].float()
        each = torch.nn.functional.cross_entropy(logits, torch.tensor(example.ids[1:]), reduction="none")
        lost = lost + (each * torch.tensor(example.counts)).sum()
    return lost / sum(example.targets for example in EXAMPLES)


def of_openelm(raw: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
    """The torch model with our sums beside its products, and their parameters by our names."""
    model = torch_models.build(raw, checkpoints.weights(raw)).requires_grad_(False)
    found = {}
    for name in sorted({name.rpartition(".")[0] for name in arrays}):
        own = {part: arrays[f"{name}.{part}"] for part in PEFT_PARTS if f"{name}.{part}" in arrays}
        holder, _, attribute = name.rpartition(".")
        made = Beside(model.get_submodule(name), own)
        setattr(model.get_submodule(holder), attribute, made)
        found |= {f"{name}.{part}": getattr(made, part) for part in own}
    return model, found


def of_llama(raw: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
    """transformers' model with peft's layers and our numbers, and their parameters by our names."""
    targets = sorted({name.split(".")[-2] for name in arrays})
    settings = peft.LoraConfig(r=RANK, lora_alpha=SCALE * RANK, target_modules=targets, task_type="CAUSAL_LM",
                               use_dora=any(name.endswith(".m") for name in arrays))  # fmt: skip
    model = peft.get_peft_model(torch_models.build(raw, checkpoints.weights(raw)), settings).eval()
    parameters, found = dict(model.named_parameters()), {}
    for name, array in arrays.items():
        module, _, part = name.rpartition(".")
        parameter = parameters[f"base_model.model.{module}.{PEFT_PARTS[part]}"]
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(array if array.ndim == 1 else array.T.copy()))
        found[name] = parameter
    assert len(found) == sum(parameter.requires_grad for parameter in model.parameters())
    return model, found


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_gradients_of_every_trained_array_are_torchs(family: str, dora: bool, tmp_path: Path) -> None:
    raw = checkpoints.CONFIGS[family]
    source = checkpoints.write(tmp_path / "model", raw)
    arrays = made_arrays(source, dora=dora)
    loss, gradients = ours(source, arrays, dora=dora)
    build = of_openelm if raw["model_type"] == "openelm" else of_llama
    model, parameters = build(raw, {name: np.array(one) for name, one in arrays.items()})
    expected = loss_of(model)
    expected.backward()
    assert math.isclose(loss, expected.item(), rel_tol=1e-5)
    assert set(gradients) == set(parameters)
    for name, gradient in gradients.items():
        theirs = parameters[name].grad.numpy()
        theirs = theirs if theirs.shape == gradient.shape else theirs.T
        assert np.abs(theirs).max() > 0, name
        assert np.abs(gradient - theirs).max() <= BOUND * np.abs(theirs).max(), name
