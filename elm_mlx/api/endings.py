"""How likely a model finds the ends of texts, of which many begin alike: what they share is read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from math import ceil
from typing import NamedTuple, TypeVar

import numpy as np

from elm_mlx.api.scores import POSITIONS, log_softmax, refuse_nan
from elm_mlx.device.backend import mx
from elm_mlx.device.execution import Execution
from elm_mlx.device.side_by_side import Place, places
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

T = TypeVar("T")
Judged = tuple[mx.array, mx.array]  # log-probabilities [P], and whether each id is the likeliest, [P]
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
            raise InvalidRequest(f"{one.scored} of {len(one.ids)} ids are to be scored. Score fewer: at least one must "
                                 "stand before them.")  # fmt: skip
        if len(one.ids) - 1 > self.context:
            raise InvalidRequest(f"A text of {len(one.ids):,} ids is to be scored, and the model reads up to "
                                 f"{self.context:,}. Cut it.")  # fmt: skip

    def _all(self, engine: Engine, endings: Sequence[Ending]) -> list[EndingScore]:
        engine.variants.check(self._adapter)
        return [score for family in families(endings) for score in self._family(engine, family)]

    def _family(self, engine: Engine, family: Family) -> list[EndingScore]:
        """The scores of one family: what it shares is read first, then its texts, a block on each of the device's
        streams, short ones together."""
        execution, shared = engine.execution, family.shared
        last = self._read(engine, family.endings[0].ids[:shared])  # [1, V]
        rows = sorted(family.endings, key=lambda one: len(one.ids))
        is_plain = all(isinstance(layer, KVCache) for layer in self._trunk)
        most = rows_at_once(execution, len(rows[-1].ids) - 1 - shared, shared) if is_plain else 0
        width = max(1, len(execution.streams))
        size = min(max(1, most), ceil(len(rows) / width))
        scores = dict[Ending, EndingScore]()
        for turn in blocks(list(blocks(rows, size)), width):
            where = places(execution.streams, len(turn))
            made = [self._block(engine, some, shared, last, place) for some, place in zip(turn, where, strict=True)]
            mx.eval([parts for _, parts in made])
            for some, (owners, parts) in zip(turn, made, strict=True):
                scores |= zip(some, summed(len(some), owners, parts), strict=True)
        return [scores[one] for one in family.endings]

    def _block(
        self, engine: Engine, rows: Sequence[Ending], shared: int, last: mx.array, place: Place
    ) -> tuple[list[int], list[Judged]]:
        """How the ends of some texts are predicted, as `predicted` gives it. Over caches that are not plain it is one
        text, and so it is where a chunk of a prompt has no room for more."""
        model, tails = engine.variants.of(self._adapter), [one.ids[shared:-1] for one in rows]  # the last is not read
        longest = max(map(len, tails))
        plain = [layer for layer in self._trunk if isinstance(layer, KVCache)]
        together = plain and longest and rows_at_once(engine.execution, longest, shared) >= len(rows)
        with place:
            states = model.hidden(filled(tails), branches(plain)) if together else self._alone(engine, tails[0])
            self.positions += len(rows) * longest
            return predicted(model, rows, shared, last, states)

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


def blocks(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Rows in blocks of at most so many."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def filled(tails: Sequence[Sequence[int]]) -> mx.array:
    """Rows of ids as [B, L], shorter ones filled up at their ends, to which no id before them attends."""
    longest = max(map(len, tails))
    return mx.array([[*tail, *[0] * (longest - len(tail))] for tail in tails])


def predicted(
    model: Decodes, rows: Sequence[Ending], shared: int, last: mx.array, states: mx.array
) -> tuple[list[int], list[Judged]]:
    """How the ends of B texts are predicted by the states [B, L, E] after their ids beyond the `shared` ones, and by
    the logits `last` [1, V] after these: the row of each of their ids, and what `judged` says of them, not
    evaluated."""
    wanted = [(row, at, one.ids[at]) for row, one in enumerate(rows) for at in range(one.start, len(one.ids))]
    first = [each for each in wanted if each[1] == shared]  # predicted by what is shared alone
    later = [each for each in wanted if each[1] > shared]
    parts = [judged(mx.broadcast_to(last, (len(first), last.shape[1])), [id for _, _, id in first])] if first else []
    for some in blocks(later, POSITIONS):
        here, places, targets = map(list, zip(*some, strict=True))
        before = states[mx.array(here), mx.array(places) - (shared + 1)]  # [P, E]
        parts.append(judged(model.head(before), targets))
    return [row for row, _, _ in (*first, *later)], parts


def summed(count: int, owners: Sequence[int], parts: Sequence[Judged]) -> list[EndingScore]:
    """The scores of so many ends, of what is evaluated of their ids."""
    logprobs, likeliest = (np.concatenate([np.array(part[which]) for part in parts]) for which in (0, 1))
    refuse_nan(logprobs)
    sums = np.bincount(owners, weights=logprobs, minlength=count)
    missed = np.bincount(owners, weights=~likeliest, minlength=count)
    return [EndingScore(float(total), not misses) for total, misses in zip(sums, missed, strict=True)]


def judged(logits: mx.array, targets: Sequence[int]) -> Judged:
    """The log-probability of each target by its logits [P, V], and whether it is the likeliest: two arrays [P]."""
    wanted = mx.array([*targets])
    return mx.take_along_axis(log_softmax(logits), wanted[:, None], axis=-1)[:, 0], mx.argmax(logits, axis=-1) == wanted
