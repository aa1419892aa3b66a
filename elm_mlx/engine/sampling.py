"""From logits to the next id, in stages whose order is fixed:

1. biases, 2. the repetition penalty, 3. the presence and the frequency penalty, 4. banned ids (all of them in
`engine.penalties`), then greedily the likeliest id, or 5. temperature, 6. top-k, 7. top-p, 8. min-p and 9. a draw. A
stage that is switched off adds nothing to the graph.

The order is that of transformers' generation, where a model's generation_config comes from; vLLM and mlx-lm have biases
and penalties first, too.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from elm_mlx.arguments import whole_number
from elm_mlx.config.generation import Sampling
from elm_mlx.engine.penalties import Penalties
from elm_mlx.engine.top_p import keep_top_p


class State(NamedTuple):
    """All of a Sampler that a draw changes: its random key [2], and how often its answer has each id, [1, V] or None.
    Neither array is ever written to, so a state that was kept can be taken up again."""

    key: mx.array
    counts: mx.array | None = None


class Sampler:
    """Draws the ids of one request with a random key of its own, so that requests never change each other's ids.

    `seed` is any whole number, 0 included; None takes a seed from the operating system. `prompt` has the ids that the
    repetition penalty counts as said. With `compiled` penalties, and the search of top-p, run in compiled kernels.
    """

    def __init__(
        self, sampling: Sampling, seed: int | None = None, prompt: Sequence[int] = (), compiled: bool = False
    ) -> None:
        self.sampling, self.compiled = sampling, compiled
        self.key = mx.random.key(secrets.randbits(64) if seed is None else whole_number("seed", seed) % 2**64)
        self.penalties = Penalties(sampling, [prompt], compiled) if sampling.changes_logits else None

    @property
    def is_plain(self) -> bool:
        """Whether it takes the highest logit as it is, so that no draw depends on another."""
        return self.sampling.is_greedy and self.penalties is None

    @property
    def state(self) -> State:
        """What the draws so far have changed. Setting it takes back the draws since it was read."""
        return State(self.key, self.penalties.counts if self.penalties else None)

    @state.setter
    def state(self, state: State) -> None:
        self.key = state.key
        if self.penalties:
            self.penalties.counts = state.counts

    def __call__(self, logits: mx.array) -> mx.array:
        """Logits [1, V] -> an id [1]."""
        if self.penalties is None:
            return self._choose(logits)
        ids = self._choose(self.penalties(logits))
        self.penalties.count(ids)
        return ids

    def _choose(self, logits: mx.array) -> mx.array:
        if self.sampling.is_greedy:
            return mx.argmax(logits, axis=-1)
        self.key, now = mx.random.split(self.key)
        return draw(logits, self.sampling, now[None], self.compiled)


def draw(logits: mx.array, sampling: Sampling, keys: mx.array, compiled: bool = False) -> mx.array:
    """Draws one id for each row from its filtered distribution, with the row's own key: logits [B, V] and keys [B, 2]
    -> ids [B]. A row's id depends on its logits and its key alone, not on the other rows. Biases and penalties are not
    looked at: they are in the logits already."""
    scaled = logits.astype(mx.float32) / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[-1]:
        return _draw_top_k(scaled, sampling, keys, compiled)
    return draw_each(keep_min_p(keep_top_p(scaled, sampling.top_p, compiled), sampling.min_p), keys)


def _draw_top_k(logits: mx.array, sampling: Sampling, keys: mx.array, compiled: bool) -> mx.array:
    """Draws among the k highest logits. They are taken out first, so that the later filters see k entries, not V."""
    k = int(sampling.top_k)
    # Sorted, since the order of the k would change with the last bit of a logit, and with it who gets which luck.
    ids = mx.sort(mx.argpartition(-logits, kth=k - 1, axis=-1)[..., :k], axis=-1)  # [B, k]
    kept = mx.take_along_axis(logits, ids, axis=-1)
    filtered = keep_min_p(keep_top_p(kept, sampling.top_p, compiled), sampling.min_p)
    drawn = draw_each(filtered, keys)[..., None]  # [B, 1], an index among the k
    return mx.take_along_axis(ids, drawn, axis=-1)[..., 0]


def draw_each(logits: mx.array, keys: mx.array) -> mx.array:
    """Draws an index for each row, with the row's own key: logits [B, V] and keys [B, 2] -> [B]."""
    if len(keys) == 1:  # what the call below would draw, without its cost
        return mx.random.categorical(logits[0], key=keys[0])[None]
    return mx.vmap(lambda row, key: mx.random.categorical(row, key=key))(logits, keys)


def keep_min_p(logits: mx.array, min_p: float) -> mx.array:
    """Keeps ids at least `min_p` times as likely as the likeliest; others get -inf: logits [B, V] -> [B, V]."""
    if min_p <= 0:
        return logits
    floor = mx.max(logits, axis=-1, keepdims=True) + math.log(min_p)
    return mx.where(logits >= floor, logits, -math.inf)
