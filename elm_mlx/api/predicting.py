"""What a model predicts for ids that are given: logits, scores and log-probabilities."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Self

from elm_mlx.api.cache_kind import cache_kind
from elm_mlx.api.completing import Completes
from elm_mlx.api.endings import EndingScorer
from elm_mlx.api.options import check_alternatives
from elm_mlx.api.scores import Scores, scores_of
from elm_mlx.api.unable import refuse_on_ranks, refuse_unable
from elm_mlx.arguments import Progress
from elm_mlx.device.backend import mx
from elm_mlx.engine.cache.kind import CacheKind
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.logprobs import TokenLogprob
from elm_mlx.engine.prefill import all_logits
from elm_mlx.engine.request import Judged, Request
from elm_mlx.errors import InvalidRequest


class Predicts(Completes):
    """An open model that says how likely it finds given texts."""

    def logits(self, ids: Sequence[int], *, adapter: str | None = None) -> mx.array:
        """The logits after every id: ids (L,) -> evaluated logits (L, V) in float32. With `adapter` they are those of
        the model with this adapter.

        Raises InvalidRequest for ids the model does not have and for an adapter that is not loaded, PromptTooLong for
        more than its context, EngineStopped after `close`, Forked.
        """
        checked, number = self._read_whole(ids, "Reading out logits"), self._maker.adapters.number(adapter)
        return self._worker.call(lambda engine: logits_of(engine, checked, number))

    def scores(
        self, ids: Sequence[int], *, adapter: str | None = None, against: Self | None = None,
        window: int | None = None, kv_bits: int | str | None = None,
    ) -> Scores:  # fmt: skip
        """How well the model predicts each of the ids but the first after those before it; with `against` also how far
        this is from what that model, without an adapter, predicts. `window` and `kv_bits` hold this model's keys and
        values as in `Options`. Raises as `logits`, and for `against` alike; InvalidRequest for one with another number
        of ids; NotFinite where logits are NaN or infinite."""
        number, kind = self._maker.adapters.number(adapter), self._kind(window, kv_bits)
        for lm in (self, against) if against else (self,):
            checked = lm._read_whole(ids, "Scoring a text")
        if against and against.config.vocab_size != self.config.vocab_size:
            raise InvalidRequest("The two models have different vocabularies, so what they predict cannot be compared.",
                                 "Leave {against} out.")  # fmt: skip
        beside = against._worker if against else None
        return self._worker.call(
            lambda engine: scores_of(engine, checked, number, beside.engine if beside else None, kind)
        )

    def ending_scorer(
        self, *, adapter: str | None = None, window: int | None = None, kv_bits: int | str | None = None
    ) -> EndingScorer:
        """Scores the ends of texts, of which many begin alike: what they share is read once (`elm_mlx.api.endings`).
        With `adapter` by the model with this adapter; `window` and `kv_bits` hold keys and values as in `Options`.
        Raises InvalidRequest for what means nothing to this model, EngineStopped after `close`, Forked."""
        self._worker.check()
        refuse_on_ranks(self._is_shared, "Scoring a text")
        number, kind = self._maker.adapters.number(adapter), self._kind(window, kv_bits)
        return EndingScorer(self._worker, self.config.context_length, number, kind)

    def prompt_logprobs(
        self,
        ids: Sequence[int],
        alternatives: int = 0,
        *,
        adapter: str | None = None,
        progress: Progress | None = None,
    ) -> list[TokenLogprob]:
        """The log-probability of every id but the first, as the model gives it after those before it; each with those
        of so many likeliest ids, 0 to 20. With `adapter` the model has that adapter. It waits for its turn as other
        requests do, which go on meanwhile, with a step after each chunk. `progress` is called with (ids read, in all),
        where the last id need not be read; what it raises ends the reading. Raises as `logits`; QueueFull,
        NotEnoughMemory, NotFinite, RequestFailed."""
        if not (request := self._judged_request(ids, alternatives, adapter)):
            return []
        stream = self._begin(request, progress)
        if progress:
            deque(stream, maxlen=0)
        stream.result()
        return stream.judged

    async def aprompt_logprobs(
        self, ids: Sequence[int], alternatives: int = 0, *, adapter: str | None = None
    ) -> list[TokenLogprob]:
        """The log-probabilities of ids as `prompt_logprobs` gives them, without blocking the event loop. Cancelling the
        task ends the reading with the next chunk."""
        if not (request := self._judged_request(ids, alternatives, adapter)):
            return []
        stream = self._begin(request)
        await stream.aresult()
        return stream.judged

    def _judged_request(self, ids: Sequence[int], alternatives: int, adapter: str | None) -> Request | None:
        """A request for the log-probabilities of these ids; None for one alone, which has nothing before it."""
        checked, most = self._read_whole(ids, "Scoring a prompt"), check_alternatives(alternatives)
        *prompt, last = checked
        number = self._maker.adapters.number(adapter)
        judged = Judged(last, most)
        return Request(tuple(prompt), 1, find=False, keep=False, adapter=number, judged=judged) if prompt else None

    def _read_whole(self, ids: Sequence[int], what: str) -> list[int]:
        """Ids that the model is to read at once, judged. Raises as `logits`; `what` they are read for begins the
        sentence of a model on several ranks."""
        self._worker.check()
        refuse_on_ranks(self._is_shared, what)
        if len(checked := self._maker.ids(ids)) > self.config.context_length:
            raise self._maker.too_long(len(checked))
        return checked

    def _kind(self, window: int | None, kv_bits: int | str | None) -> CacheKind:
        """How keys and values are held. Raises InvalidRequest for what means nothing to this model."""
        options = {"window": window, "kv_bits": kv_bits}
        refuse_unable(self.config, options)
        return cache_kind(options, self.config.context_length)


def logits_of(engine: Engine, ids: list[int], adapter: int | None) -> mx.array:
    """The logits after every id by the model with an adapter (None: without), evaluated: L ids -> [L, V] in float32."""
    engine.variants.check(adapter)
    model = engine.variants.of(adapter)
    cache = new_cache(engine.model, engine.layers, len(ids), reserve=len(ids))
    logits = all_logits(model, mx.array([ids]), cache, engine.execution)[0].astype(mx.float32)
    mx.eval(logits)
    return logits
