"""The sequences that decode together, a row each, and one step of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import mlx.core as mx

from elm_mlx.engine.agree import Agree, alone
from elm_mlx.engine.cache.kv import RESERVE
from elm_mlx.engine.cache.layer import Layer, can_shorten
from elm_mlx.engine.cache.rows import Alone, Rows
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.drawn import Drawn, first_of, joined, list_of
from elm_mlx.engine.finite import peaks
from elm_mlx.engine.group import Group, new_group
from elm_mlx.engine.guided import GuidedRows, guided_rows
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.logprobs import Noter, noter_for
from elm_mlx.engine.samplers import Samplers
from elm_mlx.engine.sequence import ERROR, Sequence
from elm_mlx.engine.variants import Variants
from elm_mlx.errors import ElmError

LIKE = 4  # rows share slots where none is more than so many times as long as another; chosen, not measured


class Batch:
    """Decodes several sequences at once. Where there is one, it has its own cache; several of like length share slots,
    and one that is much longer than the others keeps its own cache beside them."""

    def __init__(self, variants: Variants, limits: Limits, grow_by: int = 0, agree: Agree = alone) -> None:
        self.variants, self.limits, self.grow_by, self.agree = variants, limits, grow_by, agree
        self.before_handing_over: Callable[[], None] = lambda: None  # called when a step is built
        self.expected, self.longest = 1, 0  # how many rows there may soon be, and the positions of the longest
        self.groups: list[Group] = []
        self.drop()

    def drop(self) -> None:
        """Forgets all rows and their buffers."""
        for group in self.groups:
            group.drop()
        self.groups = []
        self.alone: list[Sequence] = []
        self.order: list[Sequence | None] = []  # the rows of a step
        self.rows: list[Sequence] = []  # those of the last step
        self.moved = False  # whether a row has left its place since they were put in order
        self.unchanged = 0  # steps for which every row needs another id, as long as rows are the same
        self.cache = Rows([])
        self.model: Decodes | None = None  # that of the rows in this order
        self.samplers = Samplers([])
        self.noter: Noter | None = None
        self.guided: GuidedRows | None = None  # where a row of a step has a constraint
        self.drawn: Drawn | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of all caches."""
        own = sum(array.nbytes for one in self.alone for layer in one.cache or () for array in layer.arrays())
        return own + sum(group.slots.nbytes for group in self.groups)

    @property
    def goes_on(self) -> bool:
        """Whether the same rows decode in the next step, and none of them has a constraint."""
        return self.drawn is not None and self.unchanged > 0 and not (self.moved or self.guided)

    def idle_for(self, length: int | None, running: list[Sequence]) -> int:
        """The bytes of free slots that a row of so many positions can move into (None: one that can move into none), or
        that are given up when it decodes, since all rows beside them are paused then and leave. Running rows of like
        length with caches of their own come first."""
        idle = sum(
            group.idle
            for group in self.groups
            if all(one.is_paused for one in group.rows if one)
            or (length is not None and None in group.rows and alike(length, group.slots.longest))
        )
        others = [one for one in running if one.cache and can_share(one)]
        return max(0, idle - sum(one.reserved for one in others if alike(length or 0, length_of(one))))

    def step(self, rows: list[Sequence], early: bool) -> list[Sequence]:
        """Computes the next id of every row that needs one, and reads the ids that were drawn before. Returns the
        sequences that got an id, or ended.

        `early` submits the step before those ids are read, so that the device never waits for the host; otherwise it is
        submitted right after. Where a row has a constraint, that is so of the logits alone: the draw is submitted when
        the ids before are read and so it is known which may come next. Rows that are not among `rows` any more and have
        not ended keep their positions in caches of their own. While no step is under way, first ids are read without
        another one: whoever waits for them need not wait until that is built, and on a CPU nearly computed.
        """
        if self.drawn and self.unchanged > 0 and rows == self.rows and not self.moved:
            self.unchanged -= 1
            drawn = self.drawn
            ids: mx.array | None = drawn.ids
        else:
            nothing_runs, drawn = self.drawn is None, self._collect(rows)
            if nothing_runs and drawn.rows:
                return self._deliver(drawn, list_of(drawn.ids), self._peaks_of(drawn))
            ids = self._arrange(rows, drawn)
        if self.guided and ids is not None:
            return self._step_guided(drawn, ids, early)
        self.drawn = self._submit(ids, early) if ids is not None else None
        tokens, highest = list_of(drawn.ids), self._peaks_of(drawn)
        if self.drawn and not early:
            self.drawn.submit()
        return self._deliver(drawn, tokens, highest)

    def _step_guided(self, drawn: Drawn, ids: mx.array, early: bool) -> list[Sequence]:
        """Takes a step on these ids [B], which are those of `drawn`, where rows have constraints: their masks are asked
        for while the device computes the logits."""
        assert self.guided
        logits = self._logits(ids)
        if early:
            mx.async_eval(logits)
        tokens, highest = list_of(drawn.ids), self._peaks_of(drawn)
        if not early:
            mx.async_eval(logits)
        news = self._deliver(drawn, tokens, highest)
        allowed, ended = self.guided.restrict(logits)
        self.drawn = self._draw(logits, allowed)
        self.drawn.submit()
        return [*dict.fromkeys([*news, *ended])]

    def settle(self, sequence: Sequence) -> list[Sequence]:
        """Reads what is drawn, and lets a sequence that runs alone, if it goes on, have its own caches, which hold all
        of its ids but the last, and its own sampler: so it can be computed elsewhere until the next `step`. Returns the
        sequences that got an id, or ended."""
        if sequence.cache and not (sequence.ahead or self.drawn or self.order):
            return []  # so it was left by the round before
        drawn = self._collect([sequence])
        tokens, highest = list_of(drawn.ids), self._peaks_of(drawn)
        self.samplers.part()
        self.samplers, self.order, self.drawn, self.moved = Samplers([]), [], None, True
        news = self._deliver(drawn, tokens, highest)
        for group in [group for group in self.groups if sequence in group.rows and not sequence.finish]:
            sequence.cache = self._take_out(group, sequence)
        return news

    def release(self, sequence: Sequence, keep: bool) -> list[Layer] | None:
        """Takes a sequence out. With `keep` returns caches that hold its prompt and all of its ids but the last; None
        where they hold more, of a step that was under way, and cannot forget it."""
        length = len(sequence.request.prompt) + max(len(sequence.ids), 1) - 1
        caches = self.copy(sequence, length, length) if keep and not sequence.cache else sequence.cache
        for group in [group for group in self.groups if sequence in group.rows]:
            group.leave(sequence)
        self.groups = [group for group in self.groups if any(group.rows)]
        self.alone = [one for one in self.alone if one is not sequence]
        sequence.cache, self.moved, self.cache = None, True, Rows([])  # they would hold the buffers of those who left
        if not (keep and caches and can_shorten(caches, length)):
            return None
        for layer in caches:
            layer.trim(layer.offset - length)
        return caches

    def copy(self, sequence: Sequence, length: int, capacity: int, reserve: int = 0) -> list[Layer]:
        """Copies the first `length` positions of a row into caches of their own, evaluated, so that no later write to
        the row copies its buffers. They have the `capacity` and the `reserve` of a KVCache."""
        for group in self.groups:
            if sequence in group.rows:
                copies: list[Layer] = [*group.slots.copy_out(group.rows.index(sequence), length)]
                for layer in copies:
                    layer.resize(capacity, reserve)
                return copies
        assert sequence.cache
        copies = [layer.fork(length, capacity, reserve) for layer in sequence.cache]
        mx.eval([layer.arrays() for layer in copies])
        return copies

    def _collect(self, rows: list[Sequence]) -> Drawn:
        """All ids that are drawn and not read: those of the step before, and the first ids of new rows."""
        before = [self.drawn] if self.drawn else []
        return joined(before + [first_of(one) for one in rows if one.ahead])

    def _arrange(self, rows: list[Sequence], drawn: Drawn) -> mx.array | None:
        """Gives every row its place, and returns the ids [B] that the next step begins with, in the order of the rows;
        None where no row needs another id."""
        self.rows = rows
        pending = {one for one in drawn.rows if one and not one.finish}
        going = [one for one in rows if len(one.ids) + (one in pending) < one.room]
        if not going:
            return None
        self._place(going, set(rows))
        order = [one for group in self.groups for one in group.rows[group.slots.span]]
        order += [one for one in self.alone if one in going]
        if self.moved or order != self.order:
            self._reorder(order)
        self.unchanged = min(one.room - len(one.ids) - (one in pending) for one in rows) - 1
        if order == drawn.rows:
            return drawn.ids
        return self._ids_of(order, drawn)

    def _place(self, going: list[Sequence], rows: set[Sequence]) -> None:
        """Lets paused rows leave the slots, and finds a place for new ones."""
        for group in list(self.groups):
            for one in group.rows:
                if one and one not in rows:
                    one.cache = self._take_out(group, one)
        for one in going:
            if one.cache and one not in self.alone:
                self.alone.append(one)
        for one in [one for one in self.alone if one not in rows]:
            self.alone.remove(one)
        if len(self.alone) + len(self.groups) > 1:
            self._pair(going)

    def _take_out(self, group: Group, sequence: Sequence) -> list[Layer]:
        """Takes a sequence out of its slot, into caches of its own."""
        held = group.slots.lengths[group.rows.index(sequence)]
        assert held is not None
        caches = self.copy(sequence, held, max(held, sequence.positions))
        self.release(sequence, keep=False)
        return caches

    def _pair(self, going: list[Sequence]) -> None:
        """Moves rows that have caches of their own into slots, together with rows of like length."""
        for one in [one for one in self.alone if one in going and can_share(one)]:
            group = self._group_for(one, going)
            if group is None:
                continue
            if self.drawn:
                self._peaks_of(self.drawn)  # while a step reads the slots, writing into them would copy them whole
            self.alone.remove(one)
            group.slots.expects = self.longest
            group.join(one)
            self.moved = True

    def _group_for(self, one: Sequence, going: list[Sequence]) -> Group | None:
        """Slots that a row can share with rows of like length; None where there are none, or no bytes for them."""
        length = length_of(one)
        for group in self.groups:
            if alike(length, group.slots.longest) and group.reserve_for(one):
                return group
        others = [
            other
            for other in going
            if other in self.alone and other is not one and can_share(other) and alike(length, length_of(other))
        ]
        if not others:
            return None
        made = new_group(self.limits, self.expected, self.grow_by, one, others[0])
        self.groups += [made] if made else []
        return made

    def _reorder(self, order: list[Sequence | None]) -> None:
        """Prepares caches and samplers for rows in this order."""
        self.samplers.part()
        self.samplers = Samplers([one.sampler if one else None for one in order])
        asked = [(one, one.request.logprobs if one else None) for one in order]
        self.noter = noter_for(asked, any(one.sampler.compiled for one in order if one))
        self.guided = guided_rows(order)
        self.model = self._model_for(order)
        alone = [Alone(one.cache) for one in self.alone if one in order and one.cache]
        self.cache, self.order = Rows([*(group.slots for group in self.groups), *alone]), order
        self.moved = False

    def _model_for(self, order: list[Sequence | None]) -> Decodes:
        """The model that computes these rows, each with its adapter; a free slot may have any."""
        own = [one.request.adapter for one in order if one]
        return self.variants.of_rows([one.request.adapter if one else own[0] for one in order])

    def _ids_of(self, order: list[Sequence | None], drawn: Drawn) -> mx.array:
        """The last id of every row, [B]: drawn and not read yet, or read before the row paused. A free slot gets any
        id."""
        again = [one for one in order if one and one not in drawn.rows]
        ids = mx.concatenate([drawn.ids, mx.array([one.ids[-1] for one in again], drawn.ids.dtype)])
        names = [*drawn.rows, *again]
        return ids[mx.array([names.index(one) if one else 0 for one in order])]

    def _submit(self, ids: mx.array, early: bool) -> Drawn:
        """Builds one step on these ids [B], and submits it if it is `early`."""
        logits = self._logits(ids)
        drawn = self._draw(logits, logits)
        self.before_handing_over()
        if early:
            drawn.submit()
        return drawn

    def _logits(self, ids: mx.array) -> mx.array:
        """The logits [B, V] after these ids [B], not evaluated."""
        assert self.model
        self.cache.begin()
        logits = self.model.head(self.model.last_hidden(ids[:, None], self.cache.layers))
        self.cache.end()
        return logits

    def _draw(self, logits: mx.array, allowed: mx.array) -> Drawn:
        """Draws an id for each row from what is allowed of its logits, both [B, V]."""
        drawn = Drawn(*self.agree(self.samplers(allowed), peaks(logits)), self.order)
        return drawn._replace(notes=(self.noter(logits, drawn.ids),)) if self.noter else drawn

    def _peaks_of(self, drawn: Drawn) -> list[float]:
        """The peaks of the logits of a step, for which the host waits. One that is not finite, be it that of a row
        which has ended, is noted in the slots: they hold what it came from."""
        highest = list_of(drawn.peaks)
        if not all(map(math.isfinite, highest)):
            for group in self.groups:
                group.slots.is_finite = False
        return highest

    def _deliver(self, drawn: Drawn, tokens: list[int], highest: list[float]) -> list[Sequence]:
        """Gives every sequence its id."""
        now, news = time.perf_counter(), []
        entries = dict(entry for note in drawn.notes for entry in note.entries()) if drawn.notes else {}
        for one, token, peak in zip(drawn.rows, tokens, highest, strict=True):
            if one and not one.finish:
                try:
                    one.accept(token, peak, now, entries.get(one))
                except ElmError as error:  # its own: others go on
                    one.end(ERROR, error)
                news.append(one)
        return news


def length_of(sequence: Sequence) -> int:
    """The positions that a sequence's own cache holds."""
    return sequence.cache[0].offset if sequence.cache else 0


def can_share(sequence: Sequence) -> bool:
    """Whether a sequence can move into slots, which hold all positions in floats."""
    return sequence.request.cache.is_plain


def alike(one: int, other: int) -> bool:
    """Whether rows of these lengths may share slots; buffers have RESERVE columns at least."""
    short, long = sorted((max(one, RESERVE), max(other, RESERVE)))
    return long <= LIKE * short
