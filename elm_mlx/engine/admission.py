"""What a request takes of the budget, and when it may begin."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from collections.abc import Sequence as List
from itertools import islice

from elm_mlx.device.execution import Execution
from elm_mlx.device.memory import too_large
from elm_mlx.engine.batch import Batch
from elm_mlx.engine.cache.kv import RESERVE
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence
from elm_mlx.engine.sources import is_sibling
from elm_mlx.engine.speculate import Speculation
from elm_mlx.engine.together import are_few, is_better_later
from elm_mlx.errors import NotEnoughMemory


class Admission:
    """Judges which requests may begin. It changes nothing: the engine does what follows from it."""

    def __init__(self, limits: Limits, execution: Execution, speculation: Speculation, batch: Batch) -> None:
        self.limits, self.execution, self.speculation, self.batch = limits, execution, speculation, batch

    def room(self, request: Request) -> int:
        """The most ids that the answer may have. Where the request names no number it is what the context has left, cut
        to an even share of the budget, so that such requests can be answered together."""
        left = self.limits.context - len(request.prompt)
        if window := request.cache.window:  # it goes on where the context ends, if somebody has asked for a number
            left = max(left if left > 0 else window, request.max_tokens or 0)
        if request.max_tokens is not None:
            return min(request.max_tokens, left)
        most = self.limits.positions_in(request.cache, self.limits.budget.limit)
        if beside := self.speculation.bytes_of(request, 1):
            most = min(most, self.limits.budget.limit // (self.limits.token_bytes + beside))
        share = max(most // self.limits.rows - len(request.prompt), RESERVE)
        return min(left, share, max(most - len(request.prompt) + 1, 1))

    def bytes_of(self, request: Request, positions: int) -> int:
        """The bytes that so many positions of a request take in all caches, those of a draft included."""
        return self.limits.bytes_of(request.cache, positions) + self.speculation.bytes_of(request, positions)

    def needed(self, one: Sequence) -> int:
        """The bytes that a sequence's caches may come to take."""
        return self.bytes_of(one.request, one.positions)

    def why_never(self, one: Sequence) -> NotEnoughMemory | None:
        """The error for a waiting sequence that can never begin: the budget has become smaller since it came."""
        limit, nbytes = self.limits.budget.limit, self.needed(one)
        return too_large(nbytes, limit, one.positions) if nbytes > limit else None

    def can_begin(self, one: Sequence, running: list[Sequence]) -> bool:
        """Whether there is a place for a sequence among the rows, and room in the budget beside free slots or in
        them."""
        if len(running) >= self.limits.rows:
            return False
        length = len(one.request.prompt) if one.request.cache.is_plain else None
        return self.limits.budget.has_room(self.needed(one) - self.batch.idle_for(length, running))

    def first_of(self, waiting: Collection[Sequence], places: int, leaving: Collection[Sequence]) -> Iterator[Sequence]:
        """The first waiting sequence, which can begin, and those after it that have a place and room beside it, use the
        same model, and are not about to leave."""
        first, nbytes = next(iter(waiting)), 0
        for one in islice(waiting, places):
            nbytes += self.needed(one)
            is_alike = one.request.adapter == first.request.adapter and one not in leaving
            if one is not first and not (is_alike and self.limits.budget.has_room(nbytes)):
                return
            yield one

    def can_join(self, one: Sequence, held: int, begun: List[Sequence]) -> bool:
        """Whether a prompt, of which so many positions are held, is best read together with those that have begun."""
        if self.limits.held:
            return False  # a model that keeps its own caches reads one prompt at a time
        if one.request.judged or begun[0].request.judged:
            return False
        if any(other.reserved > self.needed(other) for other in begun):
            return False  # it got a longer cache than it needs: the budget may have no room beside that
        if not self.fits(len(one.request.prompt) - held, held, begun):
            return False
        others = [other for other in begun if one.request.find or is_sibling(one, other)]
        return not (self.limits.reuse and others and is_better_later(one, held, others))

    def fits(self, new: int, held: int, begun: List[Sequence]) -> bool:
        """Whether so many new ids after the held ones can be read in one pass with the prompts that have begun."""
        news = [len(other.request.prompt) - other.read for other in begun]
        return are_few([*news, new], max(held, *(other.read for other in begun)), self.execution)
