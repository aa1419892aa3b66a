"""Speculation: ids are proposed, and the model judges several in one pass. It changes the speed of an answer alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as List
from functools import cached_property
from typing import Any

import mlx.core as mx

from elm_mlx.engine.costs import COUNTS, measure_costs
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.draft import Draft, DraftProposer
from elm_mlx.engine.gate import Gate, WatchingGate
from elm_mlx.engine.guide import NOTHING_FORESEEN, Foreseen, Guide, foresee
from elm_mlx.engine.judge import Asked, Judged, judge, with_last
from elm_mlx.engine.logprobs import TokenLogprob
from elm_mlx.engine.lookup import Lookup
from elm_mlx.engine.proposer import Proposer
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import ERROR, Sequence
from elm_mlx.errors import ElmError


class Speculation:
    """What an engine speculates with: a draft, if there is one, at most `most` proposals a round, and what rounds cost
    on this machine. That is measured once, when it is first asked for, unless `costs` are given: the times of rounds by
    their number of proposals, in plain steps."""

    def __init__(
        self,
        model: Decodes,
        layers: int,
        draft: Draft | None = None,
        most: int = COUNTS[-1],
        costs: Mapping[int, float] | None = None,
    ) -> None:
        self.model, self.layers, self.draft, self.most = model, layers, draft, most
        self.given = costs

    @cached_property
    def draft_costs(self) -> Mapping[int, float]:
        """The times of rounds with the draft's proposals, by their number, in plain steps."""
        return self.given or measure_costs(self.model, self.layers, self.most, self.draft)

    @cached_property
    def lookup_costs(self) -> Mapping[int, float]:
        """The times of rounds whose proposals cost nothing."""
        return self.given or measure_costs(self.model, self.layers, self.most, None)

    def measure(self) -> None:
        """Measures now what rounds with the draft cost, if there is one, so that no request waits for it."""
        if self.draft and self.most:
            _ = self.draft_costs

    def draft_for(self, request: Request) -> Draft | None:
        """The draft, where it proposes for this request."""
        return self.draft if self.most and is_possible(request) and not request.lookup else None

    def bytes_of(self, request: Request, positions: int) -> int:
        """The bytes that so many positions of a request take in the draft's caches, beside those of the model: the
        draft reads no position beyond its context."""
        draft = self.draft_for(request)
        return draft.token_bytes * min(positions, draft.context) if draft else 0

    def begin(self, sequence: Sequence) -> Speculator | None:
        """What proposes for a sequence, or None where nothing does."""
        request = sequence.request
        if draft := self.draft_for(request):
            return Speculator(sequence, DraftProposer(draft, sequence.positions), lambda: Gate(self.draft_costs))
        if request.lookup and self.most and is_possible(request):
            return Speculator(sequence, Lookup(), lambda: WatchingGate(self.lookup_costs))
        return None


def is_possible(request: Request) -> bool:
    """Whether ids can be proposed for a request: its caches can forget the proposals that are wrong."""
    return request.cache.window is None or request.cache.margin >= COUNTS[-1] + 1


class Speculator:
    """The speculation of one sequence: `proposer` proposes ids, and the gate that `open_gate` makes says how many. That
    is made when it is first asked, since it may have to measure, and never in an engine that follows another's plans.
    """

    def __init__(self, sequence: Sequence, proposer: Proposer, open_gate: Callable[[], Gate]) -> None:
        self.sequence, self.proposer, self.open_gate = sequence, proposer, open_gate
        self.gate: Gate | None = None
        self.known = [*sequence.request.prompt]  # the prompt, and what of the answer the proposer has seen

    def choose(self) -> int:
        """How many ids to propose in the next step; 0 means that it is a plain one."""
        self.gate = self.gate or self.open_gate()
        if isinstance(self.gate, WatchingGate):
            self._watch(self.gate)
        return self.gate.choose()

    def _watch(self, gate: WatchingGate) -> None:
        """Tells the gate of each new id whether it would have been proposed."""
        self.proposer.read(self.known)
        for token in self._news():
            gate.watch(self.proposer.propose(1) == [token])
            self.known.append(token)
            self.proposer.read(self.known)

    def _news(self) -> List[int]:
        """The ids of the answer that the proposer has not seen."""
        return self.sequence.ids[len(self.known) - len(self.sequence.request.prompt) :]

    def run(self, model: Decodes, most: int) -> bool:
        """Proposes up to `most` ids, has the model judge them, and gives the sequence those that are its own. Its own
        caches must hold all ids but the last. Returns False, with nothing changed, where nothing is proposed that its
        constraint, if it has one, allows."""
        one = self.sequence
        self.known += self._news()
        count = fitting(min(most, one.room - len(one.ids) - 1))
        if not (self.proposer.read(self.known) and count):
            return False
        proposals = self.proposer.propose(count)
        foreseen = self._foresee(proposals, one.guide) if one.guide and len(proposals) else None
        guesses = foreseen.ids if foreseen else proposals
        if not len(guesses):
            self._note(1, 0)  # nothing to propose is no better than a wrong proposal
            return one.finish is not None
        assert one.cache
        asked = Asked(one.request.logprobs, foreseen.words if foreseen else None)
        judged = judge(model, one.cache, one.sampler, with_last(one.ids[-1], guesses), asked)
        self.proposer.accepted(judged.right)
        self._note(len(guesses) + bool(foreseen and foreseen.is_cut), judged.right)
        self._take(judged, foreseen)
        self.known += self._news()  # so that the gate, which was told of this round, watches plain steps alone
        return True

    def _foresee(self, proposals: mx.array | List[int], guide: Guide) -> Foreseen:
        """What of the proposals the constraint allows, of a number that rounds have. Ends the sequence where the mask
        of its next id fails."""
        one = self.sequence
        guesses: Any = proposals.tolist() if isinstance(proposals, mx.array) else proposals
        try:
            found = foresee(guide, guesses, one.request.stop_ids)
        except ElmError as error:
            one.end(ERROR, error)
            found = NOTHING_FORESEEN
        if not (kept := found.first(fitting(len(found.ids)))).ids:
            self.proposer.accepted(0)
        return kept

    def _note(self, proposed: int, accepted: int) -> None:
        """Tells the gate how a round ended."""
        if self.gate:
            self.gate.note(proposed, accepted)

    def _take(self, judged: Judged, foreseen: Foreseen | None) -> None:
        """Gives the sequence the ids that stand, up to the one that ends it, and takes the others back."""
        one = self.sequence
        assert one.cache
        one.proposed += len(judged.ids) - 1
        one.accepted += judged.right
        for place in range(judged.right + 1):
            one.sampler.state = judged.states[place]
            if one.guide and foreseen:
                one.guide.words = foreseen.words[place]
            deliver(one, judged.ids[place], judged.peaks[place], judged.entries[place])
            if one.finish:
                break
        held = len(one.request.prompt) + len(one.ids) - 1
        for layer in one.cache:
            layer.trim(layer.offset - held)


def fitting(most: int) -> int:
    """The largest of the COUNTS that is at most so much, 0 below them: each other one would be a trace of its own."""
    return max((count for count in COUNTS if count <= most), default=0)


def deliver(one: Sequence, token: int, peak: float, entry: TokenLogprob | None) -> None:
    """Gives a sequence its next id, or ends it where that fails: its logits are no numbers, or its stopper fails."""
    try:
        one.accept(token, peak, time.perf_counter(), entry)
    except ElmError as error:
        one.end(ERROR, error)
