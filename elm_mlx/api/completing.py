"""What a model goes on with after a prompt: asked for by a text or ids, and answered as a Stream or whole."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, Unpack, overload

from elm_mlx.api.batch import AHEAD, answers_as_they_end, answers_in_order
from elm_mlx.api.completion import Completion
from elm_mlx.api.open_model import OpenModel
from elm_mlx.api.options import MAX_TOKENS, Options
from elm_mlx.api.pieces import AnswerPieces
from elm_mlx.api.siblings import siblings
from elm_mlx.api.stopping import ended_with_call
from elm_mlx.api.stream import Stream
from elm_mlx.api.structure import Structure
from elm_mlx.api.tool_choice import Choice, reading_of
from elm_mlx.arguments import Progress
from elm_mlx.engine.request import Request


class Completes(OpenModel):
    """An open model that goes on from prompts: one or many, in threads or event loops."""

    def submit(
        self, prompt: str | Sequence[int], max_tokens: int | None = MAX_TOKENS, **options: Unpack[Options]
    ) -> Stream:
        """Asks for a completion of `prompt` and returns at once: text, encoded with one BOS where the model wants it,
        or ids taken as they are. The Stream is read, waited for or cancelled in any thread.

        `max_tokens` None means as many as the context and the memory for caches have room for; `stats.max_tokens` says
        how many that is. `options` are those of `elm_mlx.api.options.Options`. Raises InvalidRequest for options
        without a meaning, PromptTooLong for a prompt that leaves no room in the context, unless there is a `window`,
        NotEnoughMemory for a request whose caches can never fit, QueueFull where too many wait, EngineStopped after
        `close`, Forked, NotEnforceable for a form that cannot be enforced. A form is compiled in a thread of its own,
        for up to a second: what shows only then, the Stream raises, as it does NotFinite for a model whose logits are
        NaN, and RequestFailed where computing failed.
        """
        return self._begin(self.request(prompt, max_tokens, **options))

    def request(
        self, prompt: str | Sequence[int], max_tokens: int | None = MAX_TOKENS, **options: Unpack[Options]
    ) -> Request:
        """What `submit` would ask of the engine: for a program that runs an engine of its own. Raises as `submit` does
        for what is asked."""
        self._worker.check()
        return self._maker.request(prompt, max_tokens, options)

    def stream(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = MAX_TOKENS,
        *,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> Stream:
        """Asks for a completion as `submit` does. `progress` is called with (prompt tokens read, in all) by whoever
        waits for the first Piece. Raises as `submit`."""
        return self._begin(self.request(prompt, max_tokens, **options), progress)

    def generate(
        self, prompt: str | Sequence[int], max_tokens: int | None = MAX_TOKENS, **options: Unpack[Options]
    ) -> Completion:
        """Completes `prompt` and returns all of the answer. Raises as `submit`, and as its Stream does; Cancelled where
        the model is closed meanwhile."""
        return self.submit(prompt, max_tokens, **options).result()

    def completions(
        self, prompt: str | Sequence[int], n: int, max_tokens: int | None = MAX_TOKENS, **options: Unpack[Options]
    ) -> list[Completion]:
        """Completes `prompt` `n` times, several at once, and returns the answers. The prompt is read once for those
        that run together, also with `reuse` false.

        With a `seed` number i of several answers, from 0, is the one that `generate` gives with the seed
        `elm_mlx.seeds.seed_of(seed, i)`; a single one has the seed itself. Raises as `generate`; an error
        cancels the others.
        """
        requests = siblings(self.request(prompt, max_tokens, **options), n)
        return list(answers_in_order(partial(self._begin, patient=True), requests, AHEAD * self._rows))

    async def agenerate(
        self, prompt: str | Sequence[int], max_tokens: int | None = MAX_TOKENS, **options: Unpack[Options]
    ) -> Completion:
        """Completes `prompt` as `generate` does, without blocking the event loop. Cancelling the task cancels the
        request."""
        return await self.submit(prompt, max_tokens, **options).aresult()

    def astream(
        self, prompt: str | Sequence[int], max_tokens: int | None = MAX_TOKENS, **options: Unpack[Options]
    ) -> Stream:
        """Completes `prompt` for `async for piece in lm.astream(...)`, and returns at once. Leaving the loop cancels
        the request. Raises as `submit`."""
        return self.submit(prompt, max_tokens, **options)

    @overload
    def batch(
        self,
        prompts: Iterable[str | Sequence[int]],
        max_tokens: int | None = ...,
        *,
        ordered: Literal[True] = ...,
        **options: Unpack[Options],
    ) -> Generator[Completion, None, None]: ...

    @overload
    def batch(
        self,
        prompts: Iterable[str | Sequence[int]],
        max_tokens: int | None = ...,
        *,
        ordered: Literal[False],
        **options: Unpack[Options],
    ) -> Generator[tuple[int, Completion], None, None]: ...

    def batch(
        self,
        prompts: Iterable[str | Sequence[int]],
        max_tokens: int | None = MAX_TOKENS,
        *,
        ordered: bool = True,
        **options: Unpack[Options],
    ) -> Generator[Completion, None, None] | Generator[tuple[int, Completion], None, None]:
        """Completes many prompts, several at once: gives a Completion for each, in order; or, unless `ordered`, (index
        of the prompt, Completion) as they end. `prompts` may be endless: they are taken as answers are read.

        Each answer is the one that `generate` gives. Closing the iterator cancels what is under way. Raises as `submit`
        and `generate`, for the options at once, for a prompt when its turn comes; an error ends the iterator.
        """
        self._worker.check()
        self._maker.check(prompts, max_tokens, options)
        answers = answers_in_order if ordered else answers_as_they_end

        def submit(prompt: str | Sequence[int]) -> Stream:
            request = replace(self.request(prompt, max_tokens, **options), keep=False)
            return self._begin(request, patient=True)

        return answers(submit, prompts, AHEAD * self._rows)

    def streams(
        self, prompt: str | Sequence[int], n: int, max_tokens: int | None = MAX_TOKENS, **options: Unpack[Options]
    ) -> list[Stream]:
        """Asks for `n` completions of `prompt`, and returns at once; seeds and what is read once are as of
        `completions`. Raises as `submit`, and then asks for none."""
        return self._begin_all(siblings(self.request(prompt, max_tokens, **options), n))

    def prepare_forms(self) -> None:
        """Makes now what the first form of an answer needs, which takes up to a second with a large vocabulary: so no
        answer waits for that later. Raises NotFound without the
        extra `structure`; NotEnforceable for a tokenizer that no form can follow."""
        self._maker.grammars.prepare()

    def _begin_all(self, requests: Iterable[Request], choice: Choice | None = None) -> list[Stream]:
        """Submits requests, all or none."""
        begun: list[Stream] = []
        try:
            for request in requests:
                begun.append(self._begin(request, choice=choice))
        except BaseException:
            for stream in begun:
                stream.cancel()
            raise
        return begun

    def _begin(
        self, request: Request, progress: Progress | None = None, *, patient: bool = False, choice: Choice | None = None
    ) -> Stream:
        """Submits a request whose answer may call the tools of `choice`, as soon as its form is compiled, if it has
        one; a `patient` one never finds the queue full."""
        marks = self._templates.call_marks if choice and choice.tools else self._templates.marks
        reading = reading_of(request, marks, self.tokenizer, choice)
        if reading and reading.one_call:
            request = ended_with_call(request, reading, self.tokenizer)
        form = request.constraint
        compiled = form.compiled if isinstance(form, Structure) else None
        handle = self._worker.submit(request, patient=patient, after=compiled)
        return Stream(handle, self._worker, AnswerPieces(request, self.tokenizer, reading), self, progress)
