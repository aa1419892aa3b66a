"""From the same beginning, on the same batches, losses are those of mlx-lm's own tuner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import pytest
from helpers.command_line import run
from mlx.utils import tree_flatten, tree_unflatten

from elm_mlx.store.load import load_directory
from elm_mlx.train.examples import Batch, Example, batch_of
from elm_mlx.train.loss import summed_loss
from elm_mlx.train.trainable import AdapterArrays, AdapterShape, Arrays
from elm_mlx.train.training import Training

pytestmark = pytest.mark.slow
RATE, RANK, SCALE = 1e-3, 4, 20.0


def batches(vocabulary: int) -> list[Batch]:
    random = np.random.default_rng(0)
    rows = [tuple(map(int, random.integers(3, vocabulary, 25))) for _ in range(8)]
    examples = [Example(row, (True,) * (len(row) - 1)) for row in rows]
    return [batch_of(examples[begin : begin + 2]) for begin in range(0, 8, 2)]


def ours(directory: Path, *, dora: bool) -> tuple[Arrays, list[float]]:
    """(the arrays at the beginning, the loss of each step)."""
    loaded = load_directory(directory, "plain")
    model = loaded.model
    adapter = AdapterArrays(model, AdapterShape(RANK, SCALE, dora))
    begin = adapter.begin(mx.random.key(0))

    def loss(arrays: Arrays, batch: Batch) -> mx.array:
        adapter.put(arrays)
        return summed_loss(model, batch.ids, batch.counts)

    training = Training(begin, optimizers.Adam(RATE), loss)
    return begin, [training.step([batch]) for batch in batches(loaded.config.vocab_size)]


def theirs(directory: Path, begin: Arrays, *, dora: bool) -> list[float]:
    """The losses of mlx-lm's tuner, uncompiled."""
    from mlx_lm.tuner.trainer import default_loss
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    model: Any = load_model(directory)[0]
    model.freeze()
    settings = {"rank": RANK, "scale": SCALE, "dropout": 0.0}
    linear_to_lora_layers(model, len(model.layers), settings, use_dora=dora)
    assert set(dict(tree_flatten(model.trainable_parameters()))) == set(begin)
    model.update(tree_unflatten(list(begin.items())))
    optimizer, step, losses = optimizers.Adam(RATE), nn.value_and_grad(model, default_loss), []
    for batch in batches(int(model.args.vocab_size)):
        (loss, _), gradients = step(model, batch.ids, mx.array([[0, batch.ids.shape[1]]] * len(batch.ids)))
        optimizer.update(model, gradients)
        mx.eval(loss, model.parameters(), optimizer.state)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("dora", [False, True])
def test_losses_are_those_of_mlx_lm(dora: bool, openelm: Path, tmp_path: Path) -> None:
    """In float32: what is stored in fewer bits mlx-lm also computes in fewer."""
    assert run("convert", openelm, "--output", tmp_path / "converted", "--dtype", "float32").code == 0
    begin, losses = ours(tmp_path / "converted", dora=dora)
    assert losses == pytest.approx(theirs(tmp_path / "converted", begin, dora=dora), rel=1e-4)
