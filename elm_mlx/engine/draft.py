"""Proposals by a small model of the same vocabulary, the draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.kv import RESERVE
from elm_mlx.engine.cache.layer import Layer
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.prefill import rounds

FEW = 8  # ids that are read with the first proposal, whatever the chunks are


@dataclass(frozen=True)
class Draft:
    """A model that proposes: its layers, the most positions that it knows, the bytes that one position takes in its
    caches, and how it runs."""

    model: Decodes
    layers: int
    context: int
    token_bytes: int
    execution: Execution


class DraftProposer:
    """A Proposer that asks a draft for the likeliest ids, also where the answer itself is sampled.

    Its steps are chained: each takes the id of the one before while that is still on the device, so that nobody waits
    for the host until the proposals are judged. The caches have room for `capacity` positions, or for as many as the
    draft knows, if these are fewer.
    """

    def __init__(self, draft: Draft, capacity: int) -> None:
        self.draft = draft
        self.ids: Sequence[int] = ()
        self.cache: list[Layer] = new_cache(
            draft.model, draft.layers, min(capacity, draft.context), RESERVE, draft.execution.grow_by
        )
        self.proposed = 0

    @property
    def held(self) -> int:
        """How many ids the draft's caches hold."""
        return self.cache[0].offset

    def read(self, ids: Sequence[int]) -> bool:
        """Takes in `ids`. Where the draft has missed more of them than one round of chunks, it reads such a round and
        cannot propose yet, so that a step never takes longer than that."""
        self.ids = ids
        missing = len(ids) - self.held
        if (
            missing <= FEW
            or len(ids) >= self.draft.context
            or len(plan := rounds(missing, self.draft.execution, self.held)) == 1
        ):
            return True
        new = mx.array([ids[self.held :]], mx.uint32)
        for place, which in plan[0]:
            with place:
                self.draft.model.hidden(new[:, which], self.cache)
        mx.eval([layer.arrays() for layer in self.cache])
        return False

    def propose(self, most: int) -> mx.array | list[int]:
        """The ids [k] that the draft would give, one by one, not evaluated; fewer where its context ends, and none
        beyond."""
        most = self.proposed = min(most, self.draft.context - len(self.ids))
        if most < 1:
            return []
        token = self._next(mx.array([self.ids[self.held :]], mx.uint32))
        tokens = [token]
        for _ in range(most - 1):
            token = self._next(token[:, None])
            tokens.append(token)
        return mx.concatenate(tokens)

    def _next(self, ids: mx.array) -> mx.array:
        """The likeliest id [1] after ids [1, L], which the caches then hold."""
        model = self.draft.model
        if ids.shape[1] == 2:  # after a round in which all was accepted: often enough to be compiled
            states = model.few_hidden(ids, self.cache)[:, -1]
        else:
            states = model.last_hidden(ids, self.cache)
        return mx.argmax(model.head(states), axis=-1)

    def accepted(self, count: int) -> None:
        """Forgets the proposals that were wrong. The last one was never read: it is missing if it was right."""
        read = self.proposed - 1
        for layer in self.cache:
            layer.trim(read - min(count, read))
