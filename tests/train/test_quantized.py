"""Beside weights in any number of bits LoRA and DoRA train as beside the same weights expanded."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints

from elm_mlx.convert import convert
from elm_mlx.models.matrices import QuantizedLinear
from elm_mlx.store.load import load_directory
from elm_mlx.train.examples import Batch, Example, batch_of
from elm_mlx.train.loss import summed_loss
from elm_mlx.train.trainable import AdapterArrays, AdapterShape, Arrays

ROWS = [Example(tuple(checkpoints.prompt(length, length)), (True,) * (length - 1)) for length in (12, 9)]
MANY = [{"bits": bits} for bits in (2, 4, 5, 8)] + [{"mode": mode} for mode in ("mxfp4", "mxfp8", "nvfp4")]
FORMS = [{"bits": 3}, {"bits": 6}, *(pytest.param(form, marks=pytest.mark.slow) for form in MANY)]


def loss_and_gradients(directory: Path, policy: str, *, dora: bool) -> tuple[bool, mx.array, Arrays]:
    """(whether the products are quantized, the loss, the gradients) of an adapter in the middle of a training."""
    model = load_directory(directory, policy).model
    adapter = AdapterArrays(model, AdapterShape(rank=3, scale=2.0, dora=dora))
    arrays = adapter.begin(mx.random.key(0))
    for name in [name for name in arrays if name.endswith("lora_b")]:
        arrays[name] = 0.1 * mx.random.normal(arrays[name].shape, key=mx.random.key(len(name)))

    def loss(arrays: Arrays, batch: Batch) -> mx.array:
        adapter.put(arrays)
        return summed_loss(model, batch.ids, batch.counts) / batch.targets

    found, gradients = mx.value_and_grad(loss)(arrays, batch_of(ROWS))
    return any(isinstance(one.base, QuantizedLinear) for one in adapter.adapted), found, gradients


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(*form.values()))
def test_losses_and_gradients_are_those_of_the_expanded_weights(
    openelm: Path, tmp_path: Path, form: dict[str, int | str], dora: bool
) -> None:
    group = {} if "mode" in form else {"group_size": 32}
    directory = convert(openelm, tmp_path / "quantized", dtype="float32", **form, **group).output  # type: ignore[arg-type]
    was, loss, gradients = loss_and_gradients(directory, "plain", dora=dora)
    was_not, expected, others = loss_and_gradients(directory, "auto", dora=dora)
    assert (was, was_not) == (True, False)
    assert mx.allclose(loss, expected, rtol=1e-4)
    for name, gradient in gradients.items():
        assert mx.allclose(gradient, others[name], rtol=0, atol=1e-3 * mx.abs(others[name]).max().item()), name
        assert mx.abs(gradient).max() > 0, name
