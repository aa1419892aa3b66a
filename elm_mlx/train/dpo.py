"""Learning from pairs of answers: the better one is to become likelier against the worse one than it was before.

Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 7. For a prompt x with the better answer w and
the worse one l, and log p the sum over an answer's tokens:

    loss = -log sigmoid(beta * ((log p(w|x) - log p_ref(w|x)) - (log p(l|x) - log p_ref(l|x))))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import mlx.core as mx

from elm_mlx.models.model import Model
from elm_mlx.train.loss import token_losses
from elm_mlx.train.pairs import Pair, PairBatch, pair_batch

Reference = Sequence[tuple[float, float]]


def answer_logprobs(model: Model, ids: mx.array, counts: mx.array) -> mx.array:
    """The log-probability of the ids that count, summed over each row: ids [B, L], counts [B, L - 1] -> [B]."""
    return -(token_losses(model, ids) * counts).sum(-1)


def margins(logprobs: mx.array, reference: mx.array, beta: float) -> mx.array:
    """What stands within the sigmoid, for each pair: [2P], the chosen answers before the rejected ones -> [P]."""
    chosen, rejected = mx.split(beta * (logprobs - reference), 2)
    difference: mx.array = chosen - rejected
    return difference


class PairObjective:
    """The loss of pairs, as a mean over them. It also tells the `accuracy`, the share of pairs whose chosen answer
    gained more than the rejected one, and the `margin`, by how much (times beta). `reference` holds the
    log-probabilities of both answers of each pair, and has to be there before the first batch."""

    TELLS: ClassVar[tuple[str, ...]] = ("accuracy", "margin")
    ROWS: ClassVar[int] = 2

    def __init__(self, pairs: Sequence[Pair], beta: float) -> None:
        self.pairs, self.beta = pairs, beta
        self.reference: Reference = ()

    @property
    def lengths(self) -> list[int]:
        """How many ids the model reads of each row."""
        return [pair.length for pair in self.pairs]

    def batch(self, rows: Sequence[int]) -> PairBatch:
        """Some pairs as arrays."""
        return pair_batch([self.pairs[row] for row in rows], [self.reference[row] for row in rows])

    def tokens(self, rows: Sequence[int]) -> int:
        """How many ids of these pairs count."""
        return sum(self.pairs[row].targets for row in rows)

    def sums(self, model: Model, batch: PairBatch) -> tuple[mx.array, ...]:
        """The sums of a batch's losses, of the pairs that are in the right order, and of the margins."""
        found = margins(answer_logprobs(model, batch.ids, batch.counts), batch.reference, self.beta)
        loss = mx.logaddexp(mx.zeros_like(found), -found).sum()  # -log sigmoid(m) = log(1 + exp(-m))
        told = mx.stop_gradient(found)
        return loss, (told > 0).astype(mx.float32).sum(), told.sum()
