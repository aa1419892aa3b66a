"""Llama with every layer shared by several ranks: each has some heads, and some columns of each feed-forward.

Two sums over the ranks make a layer whole, after its output product and after its feed-forward's. The embedding takes
one more, and the logits of all ranks are put together, so that they are the same bytes on every rank.
"""

from __future__ import annotations

import mlx.core as mx

from elm_mlx.distributed.cuts import vocabulary_cut, vocabulary_width
from elm_mlx.distributed.part import Part, Share
from elm_mlx.models.collectives import Collectives
from elm_mlx.models.llama import Llama
from elm_mlx.models.matrices import Matrix, Product
from elm_mlx.models.parameters import Parameters


class Summed:
    """A product of which each rank has some columns, and the activations of these: [..., in of this rank] ->
    [..., out], the same on every rank."""

    def __init__(self, product: Product, group: Collectives) -> None:
        self.product, self.group = product, group

    def __call__(self, x: mx.array) -> mx.array:
        return self.group.sum(self.product(x))


class Vocabulary:
    """An embedding, or a head, of which each rank has the rows of `distributed.cuts.vocabulary_cut`."""

    def __init__(self, matrix: Matrix, vocabulary: int, part: Part, group: Collectives) -> None:
        own = vocabulary_cut(vocabulary, part)
        self.matrix, self.group, self.vocabulary = matrix, group, vocabulary
        self.begin, self.held = own.begin, own.end - own.begin
        self.missing = vocabulary_width(vocabulary, part.ranks) - self.held

    def rows(self, ids: mx.array) -> mx.array:
        """Looks up the rows of `ids`: [B, L] -> [B, L, E]. Each rank looks up those that it has."""
        places = ids.astype(mx.int32) - self.begin
        is_own = (places >= 0) & (places < self.held)
        found = self.matrix.rows(mx.where(is_own, places, 0))
        return self.group.sum(mx.where(is_own[..., None], found, mx.zeros_like(found)))

    def __call__(self, x: mx.array) -> mx.array:
        """[..., E] -> logits [..., V]."""
        own = self.matrix(x).reshape(-1, self.held)  # [N, rows of this rank]
        if self.missing:
            own = mx.pad(own, [(0, 0), (0, self.missing)])  # all ranks gather as many
        parts = self.group.gather(own[None])  # [ranks, N, width]
        return parts.swapaxes(0, 1).reshape(*x.shape[:-1], -1)[..., : self.vocabulary]


class ShardedLlama(Llama):
    """The Llama 3 family, the share of one rank; its `config` is that of what the rank holds. Every rank must make the
    same calls in the same order."""

    def __init__(self, share: Share, parameters: Parameters, group: Collectives) -> None:
        super().__init__(share.held, parameters)
        whole, vocabulary, part = self.embedding, share.config.vocab_size, share.part
        self.embedding = Vocabulary(whole, vocabulary, part, group)
        is_tied = self.output is whole
        self.output = self.embedding if is_tied else Vocabulary(self.output, vocabulary, part, group)
        for block in self.blocks:
            block.attn.out = Summed(block.attn.out, group)
        for ffn in {id(block.ffn): block.ffn for block in self.blocks}.values():  # some models have one for all
            ffn.down = Summed(ffn.down, group)
