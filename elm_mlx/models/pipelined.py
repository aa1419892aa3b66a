"""The blocks that one rank holds of a model, where whole blocks are dealt to the ranks (distributed.stages).

States go from rank to rank. All that a rank sends and receives is handed over at once, in the order of the calls: so
every rank does the same things in one order, whatever is evaluated later, and what nobody here waits for is sent, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from elm_mlx.distributed.part import Share
from elm_mlx.models.attention import Cache, CacheLayer, Uncached
from elm_mlx.models.blocks import Block, unchanged
from elm_mlx.models.collectives import Collectives
from elm_mlx.models.compiled import CompiledStep
from elm_mlx.models.model import Model
from elm_mlx.models.parameters import Parameters


class Stage:
    """The blocks of one rank: states in, states out. Its `config` is that of what the rank holds."""

    def __init__(self, family: type[Model], share: Share, parameters: Parameters, group: Collectives) -> None:
        self.config, self.dtype, self.group, self.ranks = share.held, parameters.dtype, group, share.part.ranks
        self.vocabulary, self.gate = share.config.vocab_size, family.new_gate()
        self.blocks = list(family.numbered_blocks(share.config, parameters, self.gate, share.blocks))
        self.step: CompiledStep | None = None

    def set_compiled(self, compiled: bool) -> None:
        """Sets whether the gate, and steps of one token, are compiled, which changes no result."""
        self.gate.set_compiled(compiled)
        self.step = CompiledStep(unchanged, self.layers, self.finished) if compiled else None

    @property
    def layers(self) -> list[Block]:
        """The blocks in the order in which states pass them, a layer each: some models pass each several times."""
        return [block for block in self.blocks for _ in range(self.config.repeats)]

    def finished(self, h: mx.array) -> mx.array:
        """What becomes of the states after the last block."""
        return h

    def through(self, h: mx.array, cache: Cache | None) -> mx.array:
        """States [B, L, E] -> states after the blocks [B, L, E]; keys and values go into `cache`."""
        layers: Sequence[CacheLayer] = cache or [Uncached()] * self.config.num_layers
        position = self.blocks[0].prepare(layers[0].offset, h.shape[1])
        for block, layer in zip(self.layers, layers, strict=True):
            h = block(h, layer, position)
        return self.finished(h)

    def quickly_through(self, h: mx.array, cache: Cache) -> mx.array:
        """As `through`, for a few new positions, in compiled stretches where steps are compiled."""
        return self.step(h, cache).reshape(h.shape) if self.step and 1 in h.shape[:2] else self.through(h, cache)

    def send(self, h: mx.array, rank: int) -> mx.array:
        """Sends states to another rank, now; gives the same states."""
        h = self.group.send(h, rank)
        mx.async_eval(h)
        return h

    def receive(self, shape: Sequence[int], rank: int) -> mx.array:
        """The states of this shape that another rank sends."""
        h = self.group.receive(shape, self.dtype, rank)
        mx.async_eval(h)
        return h


class LowerStage(Stage):
    """The blocks of a rank above 0, which gets states and sends them on. What it answers stands for nothing: its states
    are those that it sent, and its logits are zeros."""

    def hidden(self, ids: mx.array, cache: Cache | None = None) -> mx.array:
        """ids [B, L] -> the states [B, L, E] that were sent on; keys and values go into `cache`, one layer each."""
        return self._sent(self.through(self._received(ids), cache))

    def last_hidden(self, ids: mx.array, cache: Cache) -> mx.array:
        """ids [B, L] -> the last one of the states that were sent on, [B, E]."""
        h = self._received(ids)
        return self._sent(self.quickly_through(h, cache) if ids.shape[1] == 1 else self.through(h, cache))[:, -1]

    def few_hidden(self, ids: mx.array, cache: Cache) -> mx.array:
        """A few new ids [B, L], L above 1 -> the states [B, L, E] that were sent on."""
        return self._sent(self.quickly_through(self._received(ids), cache))

    def head(self, states: mx.array) -> mx.array:
        """States [..., E] -> zeros [..., V], which are there when the states are sent."""
        return mx.depends([mx.zeros((*states.shape[:-1], self.vocabulary), self.dtype)], [states])[0]

    def _received(self, ids: mx.array) -> mx.array:
        """The states [B, L, E] of ids [B, L] from the rank before."""
        mx.async_eval(ids)  # what ranks do together to get these comes first on every rank
        return self.receive((*ids.shape, self.config.model_dim), (self.group.rank + 1) % self.ranks)

    def _sent(self, h: mx.array) -> mx.array:
        return self.send(h, self.group.rank - 1)


class UpperStage(Stage):
    """The blocks of rank 0, the last ones, with the embedding before the first and the head after the last block."""

    def __init__(self, family: type[Model], share: Share, parameters: Parameters, group: Collectives) -> None:
        self.embedding = parameters.linear(family.EMBEDDING)
        super().__init__(family, share, parameters, group)
        self.norm = parameters.vector(family.NORM)
        self.output = self.embedding if share.config.tied else parameters.linear(family.HEAD)

    def hidden(self, ids: mx.array, cache: Cache | None = None) -> mx.array:
        """ids [B, L] -> normalised states [B, L, E]; keys and values go into `cache`, one layer each."""
        return self.through(self._received(ids), cache)

    def last_hidden(self, ids: mx.array, cache: Cache) -> mx.array:
        """ids [B, L] -> the normalised state of the last one, [B, E]; keys and values of all ids go into `cache`."""
        h = self._received(ids)
        if ids.shape[1] == 1:
            return self.quickly_through(h, cache)[:, -1]
        position = self.blocks[0].prepare(cache[0].offset, h.shape[1])
        for block, layer in zip(self.layers[:-1], cache[:-1], strict=True):
            h = block(h, layer, position)
        return self.finished(self.blocks[-1].last(h, cache[-1], position))[:, -1]

    def few_hidden(self, ids: mx.array, cache: Cache) -> mx.array:
        """A few new ids [B, L], L above 1 -> their normalised states [B, L, E]."""
        return self.quickly_through(self._received(ids), cache)

    def head(self, states: mx.array) -> mx.array:
        """States [..., E] -> logits [..., V]."""
        return self.output(states)

    def finished(self, h: mx.array) -> mx.array:
        """The states after the last block, normalised."""
        return mx.fast.rms_norm(h, self.norm, self.config.norm_eps)

    def _received(self, ids: mx.array) -> mx.array:
        """The states [B, L, E] of ids [B, L] after the blocks of all other ranks."""
        h = self.embedding.rows(ids)
        if self.ranks == 1:
            return h
        self.send(h, self.ranks - 1)
        return self.receive(h.shape, 1)
