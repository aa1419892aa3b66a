"""Penalties and bans give the logits that transformers' processors give."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList
from transformers.generation import logits_process as theirs

from elm_mlx.config.generation import Sampling
from elm_mlx.engine.penalties import Penalties

pytestmark = pytest.mark.parity
VOCABULARY = 200


def by_transformers(logits: np.ndarray, sampling: Sampling, prompt: list[int], answer: list[int]) -> np.ndarray:
    """The logits [V] of one row after transformers' processors."""
    processors = LogitsProcessorList()
    if sampling.logit_bias:
        processors.append(theirs.SequenceBiasLogitsProcessor([[[id], float(x)] for id, x in sampling.logit_bias]))
    processors.append(theirs.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.banned:
        processors.append(theirs.NoBadWordsLogitsProcessor([[id] for id in sampling.banned]))
        processors.append(theirs.SuppressTokensLogitsProcessor(list(sampling.banned)))
    scores = processors(torch.tensor([prompt + answer]), torch.tensor(logits)[None])
    changed: np.ndarray = scores[0].numpy()
    return changed


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(repetition_penalty=1.2),
        Sampling(repetition_penalty=0.7),
        Sampling(repetition_penalty=1.3, logit_bias=((3, 2.5), (9, -4.0)), banned=(5, 6)),
    ],
    ids=str,
)
def test_logits_are_those_of_transformers(sampling: Sampling, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, VOCABULARY).astype(np.float32)
    prompt, answer = rng.integers(0, 20, 15).tolist(), rng.integers(0, 40, 12).tolist()
    penalties = Penalties(sampling, [prompt])
    penalties.begin(VOCABULARY)
    for id in answer:
        penalties.count(mx.array([id]))
    found = np.array(penalties(mx.array(logits[None])))[0]
    assert np.allclose(found, by_transformers(logits, sampling, prompt, answer), rtol=1e-6)
