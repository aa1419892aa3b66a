"""The samplers of all rows of a batch: rows that sample alike are drawn together."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from elm_mlx.engine.penalties import Penalties, joined
from elm_mlx.engine.sampling import Sampler, Sampling, State, draw


class Samplers:
    """Draws the next id of every row at once, each as the row's own Sampler would draw it.

    There is one draw for each distinct Sampling. None stands for a row whose id nobody reads. While a Samplers is in
    use it holds the rows' states; `part` gives them back.
    """

    def __init__(self, samplers: Sequence[Sampler | None]) -> None:
        greedy = Sampling()
        drawn_as = [sampler.sampling.in_effect if sampler else greedy for sampler in samplers]
        self.groups = [
            Group(sampling, [row for row, other in enumerate(drawn_as) if other == sampling], samplers)
            for sampling in dict.fromkeys(drawn_as)
        ]
        order = [row for group in self.groups for row in group.rows]
        back = sorted(range(len(order)), key=order.__getitem__)
        self.back = mx.array(back) if len(self.groups) > 1 else None

    def __call__(self, logits: mx.array) -> mx.array:
        """Logits [B, V] -> ids [B]."""
        if self.back is None:
            return self.groups[0](logits)
        return mx.concatenate([group(logits[group.places]) for group in self.groups])[self.back]

    def part(self) -> None:
        """Gives every sampler its state back, as it is after the last draw."""
        for group in self.groups:
            group.part()


class Group:
    """The rows of a batch that have one Sampling; `rows` are their numbers in the batch."""

    def __init__(self, sampling: Sampling, rows: list[int], samplers: Sequence[Sampler | None]) -> None:
        self.sampling, self.rows, self.places = sampling, rows, mx.array(rows)
        self.samplers = [sampler for row in rows if (sampler := samplers[row])]
        self.is_plain = sampling.is_greedy and not sampling.changes_logits  # also where a row has no sampler
        self.keys: mx.array | None = None  # [B, 2], where several rows are drawn with keys
        self.penalties: Penalties | None = None  # of several rows, from their first draw on
        if len(rows) > 1 and not sampling.is_greedy:
            self.keys = mx.stack([sampler.key for sampler in self.samplers])

    def __call__(self, logits: mx.array) -> mx.array:
        """The rows' logits [B, V] -> their ids [B]."""
        if self.is_plain:
            return mx.argmax(logits, axis=-1)
        if len(self.rows) == 1:
            return self.samplers[0](logits)
        if not self.sampling.changes_logits:
            return self._choose(logits)
        if self.penalties is None:
            self.penalties = joined([one.penalties for one in self.samplers if one.penalties], logits.shape[-1])
        ids = self._choose(self.penalties(logits))
        self.penalties.count(ids)
        return ids

    def _choose(self, logits: mx.array) -> mx.array:
        if self.keys is None:
            return mx.argmax(logits, axis=-1)
        both = mx.vmap(mx.random.split)(self.keys)  # [B, 2, 2]: the next key, and that of this draw
        self.keys = both[:, 0]
        return draw(logits, self.sampling, both[:, 1], self.samplers[0].compiled)

    def part(self) -> None:
        """Gives the group's samplers their states back."""
        counts = self.penalties.counts if self.penalties else None
        for row, sampler in enumerate(self.samplers):
            key = sampler.key if self.keys is None else self.keys[row]
            own = sampler.state.counts if counts is None else counts[row : row + 1]
            sampler.state = State(key, own)
