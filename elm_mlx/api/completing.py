"""What a model goes on with after a prompt: asked for by a text or ids, and answered as a Stream or whole."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NoReturn, Unpack, cast, overload

from elm_mlx.api.batch import AHEAD, answers_as_they_end, answers_in_order
from elm_mlx.api.completion import Completion
from elm_mlx.api.open_model import OpenModel
from elm_mlx.api.options import MAX_TOKENS, Options
from elm_mlx.api.pieces import AnswerPieces
from elm_mlx.api.siblings import siblings
from elm_mlx.api.stream import Stream
from elm_mlx.api.structure import has_form, without_form
from elm_mlx.api.tool_choice import Choice, reading_of
from elm_mlx.arguments import Progress
from elm_mlx.engine.request import Request
from elm_mlx.errors import RequestFailed


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
        `close`, Forked, NotEnforceable for a form that cannot be enforced; the first use of a form may take a second.
        The Stream raises NotFinite for a model whose logits are NaN, and RequestFailed where computing failed.
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
        if not has_form(options):
            return await self.submit(prompt, max_tokens, **options).aresult()
        import asyncio  # here, as it takes long to import

        stream = await asyncio.to_thread(self.submit, prompt, max_tokens, **options)  # a form may take long to compile
        return await stream.aresult()

    def astream(
        self, prompt: str | Sequence[int], max_tokens: int | None = MAX_TOKENS, **options: Unpack[Options]
    ) -> Stream:
        """Completes `prompt` for `async for piece in lm.astream(...)`, and returns at once. Leaving the loop cancels
        the request. Raises as `submit`; but the form of an answer is compiled in a thread of its own, so what is
        wrong with one is raised where the first piece is waited for."""
        if not has_form(options):
            return self.submit(prompt, max_tokens, **options)
        free = self.request(prompt, max_tokens, **cast(Options, without_form(options)))
        return self._begin_later(free, partial(self.request, prompt, max_tokens, **options))

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
        extra `structure`; Unsupported for a tokenizer that no form can follow."""
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

    def _pieces(self, request: Request, choice: Choice | None = None) -> AnswerPieces:
        """What cuts the answer to a request, which may call the tools of `choice`, into pieces."""
        marks = self._templates.call_marks if choice and choice.tools else self._templates.marks
        return AnswerPieces(request, self.tokenizer, reading_of(request, marks, self.tokenizer, choice))

    def _begin(
        self, request: Request, progress: Progress | None = None, *, patient: bool = False, choice: Choice | None = None
    ) -> Stream:
        """Submits a request whose answer may call the tools of `choice`; a `patient` one never finds the queue full."""
        pieces = self._pieces(request, choice)
        return Stream(self._worker.submit(request, patient=patient), self._worker, pieces, self, progress)

    def _begin_later(self, free: Request, make: Callable[[], Request], choice: Choice | None = None) -> Stream:
        """Submits what `make` gives, as soon as it has: a request with a form, of which `free` is all else."""
        awaited = replace(free, constraint=awaited_form)
        pieces = self._pieces(awaited, choice)
        return Stream(self._worker.submit_later(awaited, make), self._worker, pieces, self)


def awaited_form() -> NoReturn:
    """The constraint of a request until its form is compiled."""
    raise RequestFailed("The form of the answer is not compiled yet.", "Ask again.")
