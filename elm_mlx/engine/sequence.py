"""A request while it is answered: what was drawn, what its caches hold, how it ended."""

from __future__ import annotations

import math
import time

import mlx.core as mx

from elm_mlx.engine.agree import Agree, alone
from elm_mlx.engine.cache.layer import Layer
from elm_mlx.engine.finite import peaks, refuse_not_finite
from elm_mlx.engine.guide import Guide, guarded
from elm_mlx.engine.logprobs import Note, TokenLogprob, noter_for
from elm_mlx.engine.masks import restrict
from elm_mlx.engine.proposer import Rounds
from elm_mlx.engine.request import Request
from elm_mlx.engine.sampling import Sampler
from elm_mlx.engine.stopper import Stopper
from elm_mlx.errors import ElmError, RequestFailed

STOP, LENGTH, CANCELLED, ERROR = "stop", "length", "cancelled", "error"  # why an answer ends


class Sequence:
    """The state of one request. The engine alone changes it, except where a reader is named below.

    `ids` are those of the answer so far, a stop id included; they are only ever appended to. `read` counts the prompt's
    ids whose keys and values are held, of which `reused` were held before. `finish` is why the answer ended, or None
    while it goes on; with "error", `error` says more, and with "stop" `stop_reason`: a stop id, or what the request's
    stopper gave. `room` is the most ids that the answer may have. Of the ids that were `proposed` for it, `accepted`
    were right. `logprobs` has an entry for each of `ids` where the request asks for them, and none else; `judged` those
    of the prompt's ids but the first, and of the one after them, where it asks for these. `guide`
    follows it with the request's constraint, if there is one, until it ends.

    A reader takes ids in order and sets `taken` to how many it has; where it sets `bound`, the sequence pauses while so
    many ids wait to be taken. Times are seconds of `time.perf_counter`.
    """

    def __init__(self, number: int, request: Request, room: int, compiled: bool = False, agree: Agree = alone) -> None:
        self.number, self.request, self.room, self.agree = number, request, room, agree
        self.sampler = Sampler(request.sampling, request.seed, request.prompt, compiled)
        self.cache: list[Layer] | None = None  # its own, while it is in no batch's slots
        self.ahead: tuple[mx.array, mx.array] | None = None  # its first id and the peak of its logits, not read yet
        self.note: Note | None = None  # the log-probabilities of that id, where they are asked for
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.judged: list[TokenLogprob] = []
        self.read = self.reused = self.taken = 0
        self.proposed = self.accepted = 0
        self.speculator: Rounds | None = None
        self.bound: int | None = None
        self.reserved = 0  # bytes of the budget
        self.finish: str | None = None
        self.error: Exception | None = None
        self.stopper = request.stopper() if request.stopper else None
        self.guide = Guide(guarded(request.constraint), request.sampling.banned) if request.constraint else None
        self.stop_reason: int | str | None = None
        self.submitted_at = time.perf_counter()
        self.first_at = self.last_at = self.submitted_at
        self.admitted_at: float | None = None  # when its turn came
        self.peak_bytes = 0  # the most that MLX's allocator had reached when the answer ended

    @property
    def is_paused(self) -> bool:
        """Whether its reader has to take ids before the sequence goes on."""
        return self.bound is not None and len(self.ids) - self.taken >= self.bound

    @property
    def draws_late(self) -> bool:
        """Whether its first id is drawn after the others' step is submitted: its constraint is asked meanwhile."""
        return self.guide is not None

    @property
    def positions(self) -> int:
        """The most positions that its caches may hold: the last id of an answer is never read."""
        return len(self.request.prompt) + self.room - 1

    def accept(self, token: int, peak: float, now: float, entry: TokenLogprob | None = None) -> None:
        """Appends the id that was drawn from logits with this peak and came `now`, with its log-probabilities where
        they were asked for, and ends the answer where it is its last. Raises NotFinite where the logits are no numbers,
        and ElmError where the request's constraint or its stopper fails."""
        if not math.isfinite(peak):
            refuse_not_finite(peak, len(self.ids) + 1)
        reason: int | str | None = token if token in self.request.stop_ids else None
        if self.guide:
            self.guide.take(token, reason is not None)
        if self.stopper and reason is None:
            reason = ask(self.stopper, token)
        self.last_at = now
        if not self.ids:
            self.first_at = now
        if entry:
            self.logprobs.append(entry)  # first: a reader that sees the id looks for it
        self.ids.append(token)
        if reason is not None:
            self.stop_reason = reason
            self.end(STOP)
        elif len(self.ids) == self.room:
            self.end(LENGTH)

    def draw_first(self, logits: mx.array) -> None:
        """Has its first id drawn from logits [1, V], and computes that id's log-probabilities where they are asked for.
        Raises ElmError where the request's constraint fails; an id is drawn all the same, as on machines that know
        nothing of it."""
        allowed, error = self._allowed(logits)
        ids, highest = self.ahead = self.agree(self.sampler(allowed), peaks(logits))
        noter = noter_for([(self, self.request.logprobs)], self.sampler.compiled)
        self.note = noter(logits, ids) if noter else None
        mx.async_eval(ids, highest, *(self.note.arrays() if self.note else ()))
        if error:
            raise error

    def _allowed(self, logits: mx.array) -> tuple[mx.array, ElmError | None]:
        """(logits [1, V] with minus infinity for what the constraint forbids, if there is one; what it has raised)."""
        try:
            return (self._restrict(logits, self.guide) if self.guide else logits), None
        except ElmError as error:
            return logits, error

    def _restrict(self, logits: mx.array, guide: Guide) -> mx.array:
        """Logits [1, V] -> logits [1, V] with minus infinity for what the constraint forbids."""
        guide.begin(logits.shape[-1])
        return restrict(logits, guide.next()[None], self.sampler.compiled)

    def end(self, finish: str, error: Exception | None = None) -> None:
        """Ends the answer, once: a later reason changes nothing."""
        if self.finish is None:
            self.error, self.finish = error, finish  # in this order: a reader looks at finish first


def ask(stopper: Stopper, token: int) -> str | None:
    """What a stopper says of an id. Raises ElmError where it fails: it belongs to one row, which alone ends by that."""
    try:
        return stopper.add(token)
    except ElmError:
        raise
    except Exception as cause:
        raise RequestFailed(f"What decides where this answer ends has failed: {cause!r:.300}", "Ask again, without "
                            "{stop}.") from cause  # fmt: skip
