"""A model of either architecture: from ids to states to logits, over its blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.models.attention import Cache, Uncached
from elm_mlx.models.blocks import Block, Gate
from elm_mlx.models.compiled import CompiledStep
from elm_mlx.models.parameters import Parameters
from elm_mlx.models.rope import Position


class Model(ABC):
    """Token ids in, logits out. A subclass names the parameters of its architecture."""

    EMBEDDING: ClassVar[str]
    NORM: ClassVar[str]
    HEAD: ClassVar[str] = "lm_head"
    LAYERS: ClassVar[str]  # what the names of a layer's parameters begin with, before its number
    PRODUCTS: ClassVar[dict[str, tuple[str, ...]]]  # a block's products by attribute -> the matrices joined in each

    def __init__(self, config: ModelConfig, parameters: Parameters) -> None:
        self.config, self.dtype, self.gate = config, parameters.dtype, self.new_gate()
        self.embedding = parameters.linear(self.EMBEDDING)
        self.blocks = list(self.numbered_blocks(config, parameters, self.gate, range(config.num_blocks)))
        self.norm = parameters.vector(self.NORM)
        self.output = self.embedding if config.tied else parameters.linear(self.HEAD)
        self.step: CompiledStep | None = None

    def set_compiled(self, compiled: bool) -> None:
        """Sets whether the gate, and steps of one token, are compiled, which changes no result. MLX compiles a stretch
        when it first runs."""
        self.gate.set_compiled(compiled)
        self.step = CompiledStep(self.embedding.rows, self.layers, self._normalised) if compiled else None

    @property
    def layers(self) -> list[Block]:
        """The blocks in the order in which states pass them, a layer each: some models pass each several times."""
        return [block for block in self.blocks for _ in range(self.config.repeats)]

    def stem(self, block: int, matrix: str) -> str:
        """The name of a block's matrix without .weight, by what PRODUCTS calls it."""
        return f"{self.LAYERS}.{block}.{matrix}"

    @classmethod
    def new_gate(cls) -> Gate:
        """A gate of the architecture's feed-forwards."""
        return Gate()

    @classmethod
    @abstractmethod
    def numbered_blocks(cls, config: ModelConfig, p: Parameters, gate: Gate, numbers: Iterable[int]) -> Iterator[Block]:
        """The blocks of these numbers; each is built from its parameters when the iterator reaches it."""

    @classmethod
    @abstractmethod
    def block(cls, config: ModelConfig, layer: int, p: Parameters) -> Block:
        """One block alone, built from its parameters."""

    @classmethod
    def stages(cls, config: ModelConfig, p: Parameters) -> Iterator[Callable[[mx.array], mx.array]]:
        """The steps of `hidden` as functions: from ids [B, L] to the embedding's rows, through each layer, to the norm.

        A caller that drops a stage before it asks for the next has one block in memory at a time.
        """
        yield p.linear(cls.EMBEDDING).rows
        for block in cls.numbered_blocks(config, p, cls.new_gate(), range(config.num_blocks)):
            yield from (without_cache(block) for _ in range(config.repeats))
            del block  # before the next is built
        norm = p.vector(cls.NORM)
        yield lambda h: mx.fast.rms_norm(h, norm, config.norm_eps)

    def hidden(self, ids: mx.array, cache: Cache | None = None) -> mx.array:
        """ids [B, L] -> normalised states [B, L, E]; keys and values go into `cache`, one layer each."""
        layers = cache or [Uncached()] * self.config.num_layers
        h, position = self._below(ids, layers)
        return self._normalised(self.blocks[-1](h, layers[-1], position))

    def last_hidden(self, ids: mx.array, cache: Cache) -> mx.array:
        """ids [B, L] -> the normalised state of the last one, [B, E]; keys and values of all ids go into `cache`."""
        if self.step and ids.shape[1] == 1:
            return self.step(ids, cache)
        h, position = self._below(ids, cache)
        return self._normalised(self.blocks[-1].last(h, cache[-1], position))[:, -1]

    def few_hidden(self, ids: mx.array, cache: Cache) -> mx.array:
        """A few new ids [B, L], L above 1 -> their normalised states [B, L, E], as `hidden` gives them, but those
        of one row in compiled stretches where steps are compiled: each L that is used is traced once."""
        return self.step(ids, cache)[None] if self.step and len(ids) == 1 else self.hidden(ids, cache)

    def _below(self, ids: mx.array, cache: Cache) -> tuple[mx.array, Position]:
        """ids [B, L] -> the states [B, L, E] that the last layer gets, and their position."""
        h = self.embedding.rows(ids)
        position = self.blocks[0].prepare(cache[0].offset, ids.shape[1])
        for block, layer in zip(self.layers[:-1], cache[:-1], strict=True):
            h = block(h, layer, position)
        return h, position

    def _normalised(self, h: mx.array) -> mx.array:
        return mx.fast.rms_norm(h, self.norm, self.config.norm_eps)

    def head(self, states: mx.array) -> mx.array:
        """States [..., E] -> logits [..., V]."""
        return self.output(states)

    def __call__(self, ids: mx.array, cache: Cache | None = None) -> mx.array:
        """ids [B, L] -> logits [B, L, V]."""
        return self.head(self.hidden(ids, cache))


def without_cache(block: Block) -> Callable[[mx.array], mx.array]:
    """A block as a function of states [B, L, E] alone, without a cache."""
    return lambda h: block(h, Uncached(), block.prepare(0, h.shape[1]))
