"""The one loop: requests wait, their prompts are read, their answers are decoded together, a step at a time."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from itertools import count, islice

import mlx.core as mx

from elm_mlx.device.execution import Execution
from elm_mlx.engine.admission import Admission
from elm_mlx.engine.agree import Agree, alone
from elm_mlx.engine.batch import Batch
from elm_mlx.engine.cache.kv import RESERVE, cache_bytes
from elm_mlx.engine.cache.layer import Layer
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.judged_reading import JudgedReading
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.pace import Pace
from elm_mlx.engine.plan import StepPlan
from elm_mlx.engine.prefill import DEFAULT_EXECUTION, Reading
from elm_mlx.engine.prefixes import Prefixes
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import CANCELLED, ERROR, Sequence
from elm_mlx.engine.sources import Source, Sources, held_ids
from elm_mlx.engine.speculate import Speculation
from elm_mlx.engine.together import read_together
from elm_mlx.engine.variants import Variants
from elm_mlx.errors import ElmError, InvalidRequest, QueueFull


class Engine:
    """Answers requests to one model. It knows no text, no file and no thread: one thread calls it.

    A request waits until there is a place among the rows and room in the budget for its caches; then its prompt is
    read, one round of chunks a step, between the steps of the running rows, short prompts together; then it is one of
    these rows. First come, first served, and nothing that runs is put off for what comes later.

    Every id that is drawn goes through `agree`, so that several machines that take the same steps have the same ids.
    """

    def __init__(
        self,
        model: Decodes,
        layers: int,
        limits: Limits,
        execution: Execution = DEFAULT_EXECUTION,
        speculation: Speculation | None = None,
        agree: Agree = alone,
    ) -> None:
        self.model, self.layers, self.limits, self.execution, self.agree = model, layers, limits, execution, agree
        self.variants = Variants(model)
        self.speculation = speculation or Speculation(model, layers)
        self.numbers = count(1)
        self.active: dict[int, Sequence] = {}  # by number, until it has ended
        self.waiting: deque[Sequence] = deque()
        self.reading: tuple[Sequence, Reading] | None = None
        self.read_now: list[Sequence] = []  # whose prompts are being read at this moment
        self.guided: list[tuple[Sequence, mx.array]] = []  # whose constraints are to be asked for first ids; logits
        self.running: list[Sequence] = []
        self.held: dict[Sequence, tuple[list[Layer], int]] = {}  # caches of ended ones that somebody holds; their bytes
        self.leaving: dict[Sequence, None] = {}  # those that are cancelled at the next step, in order
        self.batch = Batch(self.variants, limits, execution.grow_by, agree)
        self.prefixes = Prefixes(limits.budget)
        self.admission = Admission(limits, execution, self.speculation, self.batch)
        self.sources = Sources(self.prefixes, self.batch, limits.reuse)
        self.pace = Pace(execution.submit)

    @property
    def executions(self) -> list[Execution]:
        """How the model runs, and its draft, if it has one."""
        draft = self.speculation.draft
        return [self.execution, *([draft.execution] if draft else [])]

    @property
    def _is_alone(self) -> bool:
        """Whether one row runs: with more of them, nothing is proposed."""
        return len(self.running) == 1

    @property
    def has_work(self) -> bool:
        """Whether the next step would do anything."""
        runs = self.leaving or self.reading or not all(one.is_paused for one in self.running)
        return bool(runs or self._next_begins() or self._next_is_impossible())

    @property
    def decodes_next(self) -> bool:
        """Whether the next step does nothing but decode the rows of the last one."""
        others = self.waiting or self.reading or self.leaving or any(one.speculator for one in self.running)
        return self.batch.goes_on and self.has_work and not others

    def submit(self, request: Request) -> Sequence:
        """Queues a request and returns its sequence. Raises QueueFull where too many wait, NotEnoughMemory for one
        whose caches the budget can never hold, and InvalidRequest for a prompt that is empty or fills the context."""
        if not 0 < len(request.prompt) < self.limits.context and not (request.prompt and request.cache.window):
            raise InvalidRequest(f"The prompt has {len(request.prompt)} ids; it must have 1 at least, and fewer than "
                                 f"the context, which is {self.limits.context}.")  # fmt: skip
        self.variants.check(request.adapter)
        if len(self.waiting) >= self.limits.queue:
            raise QueueFull(f"{len(self.waiting)} requests are waiting, which is the most.",
                            "Try again later, or load the model with a larger {queue}.")  # fmt: skip
        room = self.admission.room(request)
        sequence = Sequence(next(self.numbers), request, room, self.execution.compiled, self.agree)
        self.limits.budget.refuse_impossible(self.admission.needed(sequence), sequence.positions)
        self.active[sequence.number] = sequence
        self.waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Ends a sequence at the next step, wherever it is."""
        if sequence.number in self.active:
            self.leaving[sequence] = None

    def step(self) -> list[Sequence]:
        """Takes one step, and returns the sequences that have news: ids, more of the prompt read, or an end."""
        if not self.pace.measures:
            return self.carry_out(self.plan())
        begun = time.perf_counter()
        news = self.carry_out(plan := self.plan())
        if plan.rows and not plan.proposals:
            self.pace.note(time.perf_counter() - begun)
        return news

    def plan(self) -> StepPlan:
        """Decides what the next step does."""
        # In most steps nothing waits and nobody leaves: what costs time is asked only where it may be so.
        if self.waiting and self._next_is_impossible():
            self.cancel(self.waiting[0])
        rows = [one.number for one in self.running if not ((one.bound and one.is_paused) or one in self.leaving)]
        admitted = self._admitted() if self.waiting and self._next_begins() else ()
        going_on = self.reading[0].number if self.reading and self.reading[0] not in self.leaving else None
        early = self.pace.is_early(self.batch.nbytes if self.pace.measures else 0)
        leaving = tuple(one.number for one in self.leaving)
        proposals = 0
        if rows and (speculator := self.running[0].speculator) and self._is_alone and not (going_on or admitted):
            # Whoever waits for the first id waits for no draft that reads the prompt, nor until rounds are measured.
            proposals = speculator.choose() if self.running[0].ids else 0
        return StepPlan(leaving, admitted, going_on, tuple(rows), early, proposals)

    def carry_out(self, plan: StepPlan) -> list[Sequence]:
        """Takes the step that a plan describes, and returns the sequences that have news."""
        news = [self._drop(self.active[number]) for number in plan.cancelled]
        begun = self._admit(plan.admitted) if plan.admitted else []
        if begun or plan.reading:
            news += self._read(begun, bool(plan.rows))
        if plan.rows:
            news += self._decode(plan)
        if self.guided:
            self._draw_guided()
        return news

    def fail(self, error: Exception) -> list[Sequence]:
        """Ends what a failed step worked on: the content of its buffers is unknown, so they are dropped, and the kept
        prefixes with them. The waiting requests stay, and so do the rows beside prompts whose reading failed, as that
        writes into no buffer of theirs. Returns the sequences that ended."""
        failed = self.read_now or [one for one in self.active.values() if one not in self.waiting]
        self.guided = [(one, logits) for one, logits in self.guided if one not in failed]
        if not self.read_now:
            self.batch.drop()
        self.read_now = []
        for one in failed:
            one.end(ERROR, error)
            self._retire(one, None)
        self.prefixes.forget_used()
        return failed

    def close(self) -> list[Sequence]:
        """Ends everything, and drops all caches. Returns the sequences that ended."""
        ended = list(self.active.values())
        self.batch.drop()
        for one in ended:
            one.end(CANCELLED)
            self._retire(one, None)
        for one in list(self.held):
            self.let_go(one)
        self.prefixes.clear()
        return ended

    def let_go(self, one: Sequence) -> None:
        """Takes back the caches that were held for whoever asked for it with `Request.hold`. Where the request has not
        ended yet, it is cancelled: nobody would take back what it leaves. Otherwise does nothing."""
        self.cancel(one)
        if one in self.held:
            caches, reserved = self.held.pop(one)
            self.limits.budget.release(reserved)
            if self._is_wanted(one):
                self.prefixes.put(held_ids(one), caches, one.request.cache, adapter=one.request.adapter)

    def disown(self, owner: int) -> None:
        """Lets anybody have what is kept for an owner, who asks no more, and what its requests will leave."""
        self.prefixes.disown(owner)
        for one in self.active.values():
            if one.request.owner == owner:
                one.request = replace(one.request, owner=None)

    def forget_prefixes(self) -> int:
        """Gives back the memory of all that is kept for later requests, and returns its bytes."""
        return self.prefixes.clear()

    def unload_adapter(self, number: int) -> None:
        """Takes an adapter away from new requests, and drops it once the last one is answered that uses it."""
        self.prefixes.forget_adapter(number)
        self.variants.leave(number, self._adapters_used())

    def _adapters_used(self) -> set[int | None]:
        """The adapters of the requests that are not answered yet."""
        return {one.request.adapter for one in self.active.values()}

    def _next_begins(self) -> bool:
        """Whether there is a place for the first waiting sequence."""
        if self.reading or not self.waiting or self.waiting[0] in self.leaving:
            return False
        return self.admission.can_begin(self.waiting[0], self.running)

    def _admitted(self) -> tuple[int, ...]:
        """The numbers of the waiting sequences that begin now."""
        places = self.limits.rows - len(self.running)
        return tuple(one.number for one in self.admission.first_of(self.waiting, places, self.leaving))

    def _next_is_impossible(self) -> bool:
        """Whether the first waiting sequence can never have room."""
        return bool(self.waiting) and self.admission.why_never(self.waiting[0]) is not None

    def _admit(self, numbers: tuple[int, ...]) -> list[Sequence]:
        """Begins the first of these sequences, which wait, and those after it whose prompts can be read together with
        its own, and returns them. The prompt of one alone is then being read."""
        begun: list[Sequence] = []
        for one in [self.active[number] for number in numbers]:
            if begun and not self.admission.fits(1, 0, begun):
                break  # whatever is held of its prompt
            source = self.sources.find(one, self.running)
            if begun and not self.admission.can_join(one, source.shared, begun):
                break
            self._begin(one, source)
            begun.append(one)
        self._announce(begun)
        if len(begun) == 1:
            self.reading = begun[0], self._reading_of(begun[0])
        return begun

    def _reading_of(self, one: Sequence) -> Reading:
        """What reads the prompt of a sequence alone."""
        if one.request.judged:
            return JudgedReading(self._model_of(one), one, self.execution)
        return Reading(self._model_of(one), mx.array([one.request.prompt[one.read :]]), one.cache or (), self.execution)

    def _begin(self, one: Sequence, source: Source) -> None:
        """Takes a sequence out of the queue, with caches for all of its positions, after those of `source`."""
        self.waiting.remove(one)
        one.admitted_at = time.perf_counter()
        one.cache = self.sources.borrow(one, source, self._reserve(one)) or self._new_cache(one)
        longer = cache_bytes(one.cache) + self.speculation.bytes_of(one.request, one.positions)  # if handed over
        one.reserved = max(self.admission.needed(one), longer)
        self.limits.budget.reserve(one.reserved)
        one.speculator = self.speculation.begin(one)
        one.read = one.reused = one.cache[0].offset

    def _model_of(self, one: Sequence) -> Decodes:
        """The model that reads a prompt."""
        return self.variants.of(one.request.adapter)

    def _announce(self, begun: list[Sequence]) -> None:
        """Tells the batch which rows it may soon have: these, and those that wait first."""
        soon = [*begun, *islice(self.waiting, self.limits.rows - len(self.running) - len(begun))]
        self.batch.expected = len(self.running) + len(soon)
        self.batch.longest = max(len(other.request.prompt) for other in soon)

    def _new_cache(self, one: Sequence) -> list[Layer]:
        """Caches that hold nothing yet."""
        grow_by, kind = self.execution.grow_by, one.request.cache
        return new_cache(self.model, self.layers, one.positions, self._reserve(one), grow_by, kind=kind)

    def _reserve(self, one: Sequence) -> int:
        """How many positions its first buffers have: alone it will go on in them, beside others it leaves them."""
        return len(one.request.prompt) + (0 if len(self.active) > 1 else RESERVE)

    def _read(self, begun: list[Sequence], others_run: bool) -> list[Sequence]:
        """Reads the prompts of several sequences that have begun, or a part of one prompt. Returns those with news."""
        assert begun or self.reading
        self.read_now = begun or [self.reading[0]]  # type: ignore[index]
        news = self._read_together(begun) if len(begun) > 1 else [self._read_on(others_run)]
        self.read_now = []
        return news

    def _read_on(self, others_run: bool) -> Sequence:
        """Reads one round of chunks of the prompt; with the last one its first id is drawn."""
        assert self.reading
        one, reading = self.reading
        if others_run:
            mx.eval(reading.arrays())  # the round before: no more than one takes memory at a time
        logits = reading.advance()
        one.read = one.reused + reading.read
        if logits is not None:
            self.reading = None
            self._begin_answer(one, logits)
        elif others_run:
            mx.async_eval(reading.arrays())
        else:
            mx.eval(reading.arrays())
            mx.clear_cache()  # no later chunk has scratch buffers of this size
        return one

    def _read_together(self, begun: list[Sequence]) -> list[Sequence]:
        """Reads the prompts of several sequences, and draws the first id of each."""
        prompts = [one.request.prompt[one.read :] for one in begun]
        logits = read_together(self._model_of(begun[0]), prompts, [one.cache or () for one in begun])
        for row, one in enumerate(begun):
            one.read = len(one.request.prompt)
            self._begin_answer(one, logits[row : row + 1])
        return begun

    def _begin_answer(self, one: Sequence, logits: mx.array) -> None:
        """Makes a sequence whose prompt is read a row, and draws its first id from logits [1, V]."""
        self.running.append(one)
        if one.draws_late:
            mx.async_eval(logits)
            self.guided.append((one, logits))
        else:
            one.draw_first(logits)

    def _draw_guided(self) -> None:
        """Draws the first ids of sequences with a constraint. Where that fails the sequence ends."""
        guided, self.guided = self.guided, []
        for one, logits in guided:
            try:
                one.draw_first(logits)
            except ElmError as error:  # its own: others go on
                one.end(ERROR, error)
                self._drop(one)

    def _decode(self, plan: StepPlan) -> list[Sequence]:
        """Lets the running rows decode one step."""
        rows = [self.active[number] for number in plan.rows]
        news = self._speculate(rows[0], plan) if plan.proposals else self.batch.step(rows, plan.early)
        for one in news:
            if one.finish:
                self._drop(one)
        return news

    def _speculate(self, one: Sequence, plan: StepPlan) -> list[Sequence]:
        """Lets a row that runs alone decode one round with proposals, or a plain step where there are none."""
        news = self.batch.settle(one)
        assert one.speculator
        if one.finish:
            return news
        if one.speculator.run(self.variants.of(one.request.adapter), plan.proposals):
            return [one]
        return [*dict.fromkeys([*news, *self.batch.step([one], plan.early)])]

    def _drop(self, one: Sequence) -> Sequence:
        """Takes a sequence out, and keeps its caches where they may be of use."""
        why = self.admission.why_never(one) if one in self.waiting else None
        one.end(ERROR if why else CANCELLED, why)
        caches = None
        if one in self.running:
            wanted = self._is_wanted(one)
            held = one.request.hold and one.finish not in (ERROR, CANCELLED)
            ids = held_ids(one)
            nbytes = self.limits.bytes_of(one.request.cache, len(ids))
            caches = self.batch.release(one, held or (wanted and self.prefixes.wants(nbytes)))
            if held and caches:
                self.held[one] = caches, one.reserved
                one.reserved, caches = 0, None
        elif self.reading and self.reading[0] is one and self._is_wanted(one):
            caches = one.cache  # with what was read of its prompt, or held before
            mx.eval(self.reading[1].arrays())
        self._retire(one, caches)
        return one

    def _is_wanted(self, one: Sequence) -> bool:
        """Whether the caches of an ended sequence may be of use to later requests."""
        is_loaded = self.variants.has(one.request.adapter)
        return self.limits.reuse and one.request.keep and one.finish != ERROR and is_loaded

    def _retire(self, one: Sequence, caches: list[Layer] | None) -> None:
        """Forgets an ended sequence and gives back what was reserved for it."""
        if one in self.waiting:
            self.waiting.remove(one)
        self.limits.budget.release(one.reserved)
        one.reserved = 0
        if self.reading and self.reading[0] is one:
            self.reading = None
        if one in self.running:
            self.running.remove(one)
        if not self.running:
            self.batch.drop()  # else its buffers would wait for the next step
        one.cache = one.ahead = one.note = one.speculator = one.guide = None
        one.sampler.forget()
        one.peak_bytes = mx.get_peak_memory()
        self.active.pop(one.number)
        self.leaving.pop(one, None)
        if caches:
            ids = held_ids(one)[: caches[0].offset]
            self.prefixes.put(ids, caches, one.request.cache, one.request.owner, one.request.adapter)
        if self.variants.leaving:
            self.variants.sweep(self._adapters_used())
