"""How likely a model finds the ends of texts, of which many begin alike: what they share is read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from elm_mlx.api.scores import POSITIONS, log_softmax, refuse_nan
from elm_mlx.device.backend import mx
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.branches import branches
from elm_mlx.engine.cache.kind import PLAIN, CacheKind
from elm_mlx.engine.cache.kv import KVCache
from elm_mlx.engine.cache.layer import Layer, can_shorten
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.prefill import Chunk, prefill, rounds
from elm_mlx.engine.prefixes import shared_length
from elm_mlx.engine.worker import Worker
from elm_mlx.errors import InvalidRequest

MOST_ROWS = 32  # of a family: beyond that sharing saves little more, and memory grows
START = 32  # positions that cost as much as to begin the two passes of a family; chosen, not measured


class Ending(NamedTuple):
    """A text as `ids`, of which the last `scored` ones are its end; at least one id stands before them."""

    ids: tuple[int, ...]
    scored: int

    @property
    def start(self) -> int:
        """Where the end begins."""
        return len(self.ids) - self.scored


class EndingScore(NamedTuple):
    """The log-probability of an end, in nats, after what stands before it, and whether each of its ids is the
    likeliest."""

    logprob: float
    is_greedy: bool


class Family(NamedTuple):
    """Texts that are read together: their first `shared` ids are the same, and none of these belongs to an end."""

    endings: list[Ending]
    shared: int

    @property
    def positions(self) -> int:
        """How many positions a model computes to read it; shorter texts are filled up."""
        return self.shared + len(self.endings) * (max(len(one.ids) for one in self.endings) - 1 - self.shared)

    def with_one(self, ending: Ending) -> Family:
        """The family with one text more."""
        shared = min(shared_length(self.endings[0].ids, ending.ids), self.shared, ending.start)
        return Family([*self.endings, ending], shared)


def families(endings: Iterable[Ending]) -> Iterator[Family]:
    """The families of texts, in order. A text joins the one before it where that costs no more positions than to read
    it by itself, after what it shares with that one; where they share all that stands before their ends, START more."""
    family: Family | None = None
    for one in endings:
        if family:
            joined = family.with_one(one)
            alone = len(one.ids) - 1 - min(shared_length(family.endings[0].ids, one.ids), family.shared)
            spare = START if joined.shared == family.shared else 0
            fits = joined.shared and len(joined.endings) <= MOST_ROWS
            if fits and joined.positions <= family.positions + alone + spare:
                family = joined
                continue
            yield family
        family = Family([one], one.start)
    if family:
        yield family


class EndingScorer:
    """Scores ends by one model, with an adapter or without, whose caches are of one kind. It keeps the keys and values
    of what it has read last, for the next text that begins like that: `close` gives their memory back.

    `positions` counts the positions that the model computed.
    """

    def __init__(self, worker: Worker, context: int, adapter: int | None, kind: CacheKind = PLAIN) -> None:
        self.context, self.positions = context, 0
        self._worker, self._adapter, self._kind = worker, adapter, kind
        self._trunk: list[Layer] = []
        self._held: tuple[int, ...] = ()  # the ids whose keys and values the trunk holds

    def __call__(self, endings: Sequence[Ending]) -> list[EndingScore]:
        """The score of each text's end. Nothing else is computed meanwhile. Raises InvalidRequest for texts longer than
        the context by more than their last id, which is only predicted, and where the adapter was unloaded; NotFinite;
        EngineStopped, Forked."""
        for one in endings:
            self._judge(one)
        scores = iter(self._worker.call(lambda engine: self._all(engine, [one for one in endings if one.scored])))
        return [next(scores) if one.scored else EndingScore(0.0, True) for one in endings]

    def close(self) -> None:
        """Gives back the memory of what it holds; it can go on."""
        self._trunk, self._held = [], ()

    def _judge(self, one: Ending) -> None:
        if not 0 <= one.scored < len(one.ids):
            raise InvalidRequest(f"{one.scored} of {len(one.ids)} ids are to be scored: at least one must stand before "
                                 "them.")  # fmt: skip
        if len(one.ids) - 1 > self.context:
            raise InvalidRequest(f"A text of {len(one.ids):,} ids is to be scored, and the model reads up to "
                                 f"{self.context:,}. Cut it.")  # fmt: skip

    def _all(self, engine: Engine, endings: Sequence[Ending]) -> list[EndingScore]:
        if not engine.variants.has(self._adapter):
            raise InvalidRequest("The adapter was unloaded before its turn came.")
        return [score for family in families(endings) for score in self._family(engine, family)]

    def _family(self, engine: Engine, family: Family) -> Iterator[EndingScore]:
        """The scores of one family: what it shares is read first, and its last id predicts what follows at once."""
        model, shared = engine.variants.of(self._adapter), family.shared
        last = self._read(engine, family.endings[0].ids[:shared])  # [1, V]
        plain = [layer for layer in self._trunk if isinstance(layer, KVCache)]
        longest = max(len(one.ids) for one in family.endings) - 1 - shared
        most = rows_at_once(engine.execution, longest, shared) if len(plain) == len(self._trunk) else 0
        for rows in blocks(family.endings, max(1, most)):
            tails = [one.ids[shared:-1] for one in rows]  # the last id is only predicted
            at_once = most and any(tails)
            states = model.hidden(filled(tails), branches(plain)) if at_once else self._alone(engine, tails[0])
            self.positions += len(rows) * max(map(len, tails))
            yield from scores_of_rows(model, rows, shared, last, states)

    def _read(self, engine: Engine, ids: tuple[int, ...]) -> mx.array:
        """Has the trunk hold these ids, and gives the logits [1, V] after the last."""
        trunk, held = self._trunk, self._held
        self.close()  # an error on the way leaves nothing that is wrong
        keep = min(shared_length(held, ids), len(ids) - 1)
        if trunk and can_shorten(trunk, keep):
            for layer in trunk:
                layer.trim(layer.offset - keep)
        else:
            model, keep = engine.variants.of(self._adapter), 0
            trunk = new_cache(model, engine.layers, self.context + 1, grow_by=engine.execution.grow_by, kind=self._kind)
        logits = prefill(engine.variants.of(self._adapter), mx.array([ids[keep:]]), trunk, engine.execution)
        self.positions += len(ids) - keep
        self._trunk, self._held = trunk, ids
        return logits

    def _alone(self, engine: Engine, ids: Sequence[int]) -> mx.array:
        """The states [1, L, E] after the ids of one text, read chunk by chunk into a copy of the trunk."""
        model, states = engine.variants.of(self._adapter), list[mx.array]()
        copy = [layer.fork(layer.offset, self.context + 1, len(ids)) for layer in self._trunk] if ids else []
        for place, which in chunks(engine, len(ids), copy):
            with place:
                states.append(model.hidden(mx.array([ids[which]]), copy))
            mx.eval(states[-1])
        return mx.concatenate(states, axis=1) if states else mx.zeros((1, 0, 1))


def chunks(engine: Engine, length: int, cache: Sequence[Layer]) -> Iterator[Chunk]:
    """The chunks in which so many ids are read after what a cache holds; none for none."""
    if length:
        most = cache[0].columns(cache[0].capacity)
        yield from chain.from_iterable(rounds(length, engine.execution, cache[0].offset, most))


def rows_at_once(execution: Execution, ids: int, held: int) -> int:
    """How many texts with so many ids after `held` positions are read in one pass: as many as a chunk of a prompt
    allows, 0 where not even one is."""
    most = execution.chunk // max(1, ids)
    area = ids * (held + ids)
    return min(most, execution.chunk_area // area) if execution.chunk_area and area else most


def blocks(rows: Sequence[Ending], size: int) -> Iterator[Sequence[Ending]]:
    """Texts in blocks of at most so many."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def filled(tails: Sequence[Sequence[int]]) -> mx.array:
    """Rows of ids as [B, L], shorter ones filled up at their ends, to which no id before them attends."""
    longest = max(map(len, tails))
    return mx.array([[*tail, *[0] * (longest - len(tail))] for tail in tails])


def scores_of_rows(
    model: Decodes, rows: Sequence[Ending], shared: int, last: mx.array, states: mx.array
) -> list[EndingScore]:
    """The scores of the ends of B texts from the states [B, L, E] after their ids beyond the `shared` ones, and the
    logits `last` [1, V] after these."""
    wanted = [(row, at, one.ids[at]) for row, one in enumerate(rows) for at in range(one.start, len(one.ids))]
    later = [each for each in wanted if each[1] > shared]
    first = [each for each in wanted if each[1] == shared]  # predicted by what is shared alone
    parts = [judged(mx.broadcast_to(last, (len(first), last.shape[1])), [id for _, _, id in first])] if first else []
    for start in range(0, len(later), POSITIONS):
        here, places, targets = map(list, zip(*later[start : start + POSITIONS], strict=True))
        some = states[mx.array(here), mx.array(places) - (shared + 1)]  # [P, E]
        parts.append(judged(model.head(some), targets))
    mx.eval(parts)
    logprobs, likeliest = (np.concatenate([np.array(part[which]) for part in parts]) for which in (0, 1))
    refuse_nan(logprobs)
    owners = np.array([row for row, _, _ in (*first, *later)])
    sums = np.bincount(owners, weights=logprobs, minlength=len(rows))
    missed = np.bincount(owners, weights=~likeliest, minlength=len(rows))
    return [EndingScore(float(total), not misses) for total, misses in zip(sums, missed, strict=True)]


def judged(logits: mx.array, targets: Sequence[int]) -> tuple[mx.array, mx.array]:
    """The log-probability of each target by its logits [P, V], and whether it is the likeliest: two arrays [P]."""
    wanted = mx.array([*targets])
    return mx.take_along_axis(log_softmax(logits), wanted[:, None], axis=-1)[:, 0], mx.argmax(logits, axis=-1) == wanted
