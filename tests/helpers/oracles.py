"""Proposers that know what the plain loop answers, and err as often as they are told to."""

from __future__ import annotations

import random
from collections.abc import Sequence

from helpers import checkpoints
from helpers.engines import plain_ids

import elm_mlx
from elm_mlx.engine.gate import Gate
from elm_mlx.engine.sequence import Sequence as Answer
from elm_mlx.engine.speculate import Speculation, Speculator, is_possible


def always(count: int) -> dict[int, float]:
    """Costs by which every step has so many proposals."""
    return {count: 1e-9}


class Oracle:
    """A proposer that knows the answer, and errs as often as it is told to."""

    def __init__(self, answer: Sequence[int], prompt: int, share: float, seed: int) -> None:
        self.answer, self.prompt, self.share, self.rng = answer, prompt, share, random.Random(seed)
        self.place = 0

    def read(self, ids: Sequence[int]) -> bool:
        self.place = len(ids) - self.prompt
        return True

    def propose(self, most: int) -> list[int]:
        right = [*self.answer[self.place : self.place + most], *[0] * most][:most]
        return [one if self.rng.random() < self.share else (one + 1) % checkpoints.VOCAB for one in right]

    def accepted(self, count: int) -> None:
        pass


class Oracles(Speculation):
    """Gives every sequence an oracle."""

    def __init__(self, lm: elm_mlx.LanguageModel, share: float, count: int = 4) -> None:
        super().__init__(lm.model, lm.config.num_layers, costs=always(count))
        self.lm, self.share = lm, share

    def begin(self, sequence: Answer) -> Speculator | None:
        if not is_possible(sequence.request):
            return None
        answer = plain_ids(self.lm, sequence.request)
        oracle = Oracle(answer, len(sequence.request.prompt), self.share, sequence.number)
        return Speculator(sequence, oracle, lambda: Gate(self.draft_costs))
