"""The loss of pairs of answers, and its gradient for every array of a model, beside torch's by its formula."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

from elm_mlx.config import config_from_dict
from elm_mlx.train.dpo import PairObjective
from elm_mlx.train.examples import Example
from elm_mlx.train.full import FullArrays
from elm_mlx.train.pairs import Pair
from elm_mlx.train.recompute import Recomputed
from elm_mlx.train.reference import compute_reference
from elm_mlx.train.training import Arrays

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
import torch_models
from torch.nn import functional as F

BETA, PROMPT = 0.3, 9
IDS = [(checkpoints.prompt(40, seed), checkpoints.prompt(length, seed + 50)) for seed, length in ((1, 31), (2, 40))]


def example(ids: list[int]) -> Example:
    """Ids of which those after the prompt count."""
    return Example(tuple(ids), tuple(place >= PROMPT - 1 for place in range(len(ids) - 1)))


def pairs() -> list[Pair]:
    """Two pairs; both answers of each follow the same prompt."""
    return [Pair(example(chosen), example(chosen[:PROMPT] + other[PROMPT:])) for chosen, other in IDS]


def torch_logprob(model: Any, ids: tuple[int, ...]) -> Any:
    """log p of the ids after the prompt, summed."""
    out = model(torch.tensor([ids]))
    logits = (out if isinstance(out, torch.Tensor) else out.logits)[0, :-1]
    chosen = F.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return chosen[PROMPT - 1 :].sum()


def torch_loss(policy: Any, reference: Any) -> Any:
    """The mean over the pairs by the formula as it is printed."""
    losses = []
    for pair in pairs():
        with torch.no_grad():
            before = [torch_logprob(reference, one.ids) for one in (pair.chosen, pair.rejected)]
        now = [torch_logprob(policy, one.ids) for one in (pair.chosen, pair.rejected)]
        losses.append(-torch.log(torch.sigmoid(BETA * (now[0] - before[0]) - BETA * (now[1] - before[1]))))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("recomputes", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("family", ["openelm", "openelm-untied", "llama-3.1", "llama-3.2"])
def test_loss_and_gradients_are_torchs(tmp_path: Path, family: str, recomputes: bool) -> None:
    raw = checkpoints.CONFIGS[family]
    other = {name: 0.97 * value for name, value in checkpoints.weights(raw).items()}
    policy, reference = torch_models.build(raw, checkpoints.weights(raw)), torch_models.build(raw, other)
    expected = torch_loss(policy, reference)
    expected.backward()

    config = config_from_dict(raw)
    full = FullArrays(checkpoints.write(tmp_path, raw), config, mx.float32)
    trained = Recomputed(full) if recomputes else full
    arrays = trained.begin(mx.random.key(0))
    objective = PairObjective(pairs(), BETA)
    base = trained.base({name: 0.97 * array for name, array in arrays.items()})
    objective.reference = compute_reference(base, objective.pairs, 2)

    def loss(arrays: Arrays) -> mx.array:
        return objective.sums(trained.with_arrays(arrays), objective.batch([0, 1]))[0] / 2

    found, gradients = mx.value_and_grad(loss)(arrays)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    named = dict(policy.named_parameters())  # a tied one is there once
    assert gradients.keys() == named.keys()
    for name, gradient in gradients.items():
        theirs = named[name].grad.numpy()
        assert np.abs(np.array(gradient) - theirs).max() <= 1e-3 * np.abs(theirs).max(), name
