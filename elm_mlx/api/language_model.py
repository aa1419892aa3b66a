"""A model to call: loaded by name or directory, it completes prompts, answers chats and gives logits."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast, overload
from weakref import finalize

from elm_mlx.api.adapter_names import LoadedAdapter
from elm_mlx.api.adapters import AdapterHome
from elm_mlx.api.batch import AHEAD, answers_as_they_end, answers_in_order
from elm_mlx.api.cache_kind import cache_kind
from elm_mlx.api.cache_plan import plan_again
from elm_mlx.api.completion import Completion
from elm_mlx.api.endings import EndingScorer
from elm_mlx.api.options import MAX_TOKENS, Options, check_alternatives
from elm_mlx.api.prompt_caches import PromptCaches, refuse_short
from elm_mlx.api.request_maker import RequestMaker
from elm_mlx.api.scores import Scores, scores_of
from elm_mlx.api.siblings import siblings
from elm_mlx.api.stopping import ended_with_call
from elm_mlx.api.stream import Stream
from elm_mlx.api.structure import Structure, without_form
from elm_mlx.api.templates import Templates
from elm_mlx.api.tool_choice import Choice, choice_of, reading_of
from elm_mlx.api.tools import tool_of
from elm_mlx.api.unable import refuse_adapters, refuse_files, refuse_on_ranks, refuse_unable
from elm_mlx.arguments import Progress, file_to_write, named_path
from elm_mlx.config import ModelConfig
from elm_mlx.device.backend import mx
from elm_mlx.device.execution import Execution
from elm_mlx.device.thread import is_forked, let_go
from elm_mlx.distributed.leader import LeadingEngine
from elm_mlx.engine.cache.kind import CacheKind
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.logprobs import TokenLogprob
from elm_mlx.engine.prefill import all_logits
from elm_mlx.engine.request import Judged, Request
from elm_mlx.engine.speculate import Speculation
from elm_mlx.engine.variants import Variants
from elm_mlx.engine.worker import Activity, Order, Worker, closed, give_back
from elm_mlx.errors import InvalidRequest
from elm_mlx.models.model import Model
from elm_mlx.store.load import LoadedModel, Runs
from elm_mlx.store.prompt_cache import refuse_other_file
from elm_mlx.text.marks import Marks
from elm_mlx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from elm_mlx.api.session import Session


class LanguageModel:
    """A model with its tokenizer, ready to complete. Make one with `load`; close it, or leave a `with` block, to give
    its memory back.

    Any number of threads and event loops may use it at once: what they ask for is answered together, by the one thread
    of the process that computes. A process that was forked cannot use it (Forked).
    """

    def __init__(
        self, loaded: LoadedModel, worker: Worker, holder: object, rows: int, draft: Path | None = None
    ) -> None:
        """Takes what `load` has made: `worker` answers requests, `rows` at a time, and `holder` keeps its thread.
        `draft` is the directory of the model that proposes ids, if one does."""
        self.directory: Path = loaded.directory
        self.draft: Path | None = draft
        self.config: ModelConfig = loaded.config
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.execution: Execution = loaded.execution
        self._model: Runs | None = loaded.runs
        self._file_notices = loaded.notices
        self._templates = Templates(loaded.directory, loaded.settings, loaded.tokenizer)
        self._is_shared = isinstance(worker.engine, LeadingEngine)  # several ranks hold the model together
        self._maker = RequestMaker(loaded, self._templates, self._is_shared)
        self._worker, self._holder, self._rows = worker, holder, rows
        self._give_back = finalize(self, give_back, worker, holder)
        self._give_back.atexit = False

    @property
    def model(self) -> Runs:
        """The model itself, ids to logits. Compute with it by `elm_mlx.device.thread.on_device`. Raises EngineStopped
        after `close`."""
        if not self._model:
            raise closed()
        return self._model

    @property
    def speculation(self) -> Speculation:
        """What proposes ids, and what that costs here: for a program that runs an engine of its own."""
        return self._worker.engine.speculation

    @property
    def engine(self) -> Engine:
        """The engine that answers, for a program on the device thread. Raises EngineStopped after `close`."""
        return self._worker.engine

    @property
    def variants(self) -> Variants:
        """The model without and with its adapters: for a program that runs an engine of its own."""
        return self._worker.engine.variants

    @property
    def notice(self) -> str | None:
        """A sentence about the device that a program may show to its user, or None."""
        return self.execution.notice

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences that a program may show to its user: about the device, and about what in the model's files has no
        meaning."""
        return (*((self.notice,) if self.notice else ()), *self._file_notices)

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

    @property
    def activity(self) -> Activity:
        """What the model does at this moment, for any thread; this waits for nothing, even where the device hangs."""
        return self._worker.activity

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every id that ends an answer: those that config.json, generation_config.json and the tokenizer's files name,
        and those that end a turn in the chat templates, the model's own and one from `use_chat_template`."""
        return self._maker.stop_ids

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The texts that end every answer, which generation_config.json names; `stop` in a call adds to them."""
        return self._maker.stop_strings

    @property
    def is_greedy(self) -> bool:
        """Whether a call that names no temperature takes the likeliest id each time."""
        return self._maker.sampling.is_greedy

    @property
    def has_chat_template(self) -> bool:
        """Whether there is a chat template, the model's own or one from `use_chat_template`."""
        return self._templates.are_there

    def prepare_forms(self) -> None:
        """Makes now what the first form of an answer needs, which takes up to a second with a large vocabulary: so no
        answer waits for that later. Raises NotFound without the
        extra `structure`; NotEnforceable for a tokenizer that no form can follow."""
        self._maker.grammars.prepare()

    def use_chat_template(self, template: str | Path) -> None:
        """Uses this chat template instead of the model's own: a file with one, or "zephyr", which is perhaps the format
        of OpenELM-Instruct; nobody has confirmed it. The token that ends a turn in it ends answers from now on.

        Raises NotFound, BadCheckpoint.
        """
        self._templates.give(template)

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """The ids of `messages` by the model's chat template, ready for its answer; `variables` (tools, date_string)
        are the template's. Where the model has a template named tool_use, tools are asked for by that one. Text in a
        message never becomes a control token. Calls in a message may be ToolCalls, or objects of OpenAI's API; where
        the template refuses several in one, each gets a message of its own. With `goes_on` among the variables the
        last message, an assistant's text, is not over: the answer goes on from its end.

        Raises InvalidRequest for messages that the template refuses, NotFound where the model has no template, and
        BadCheckpoint for one that fails, or writes nothing.
        """
        if isinstance(tools := variables.get("tools"), list | tuple):
            variables["tools"] = [tool if isinstance(tool, Mapping) else tool_of(tool).schema for tool in tools]
        return self._templates.prompt(messages, **variables)

    def chat_text(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """The text that the model's chat template makes of `messages`, control tokens included: to be looked at, as it
        does not tell the template's tokens from those in a message. Raises as `chat_prompt`."""
        return self._templates.text(messages, **variables)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = MAX_TOKENS,
        *,
        tools: Iterable[Any] | None = None,
        tool_choice: Any = None,
        **options: Unpack[Options],
    ) -> Completion:
        """The model's answer to `messages`, a list of {"role": ..., "content": ...}; `options` as of `generate`.

        It may call `tools`: each is a JSON schema in OpenAI's form, or a Python function, which is only described to
        the model; `tool_calls` of the Completion are to be run by the caller. `tool_choice` is "auto", "none", which
        tells the model of no tools, "required", or the name of a tool: with these two the answer is a call (or several,
        where the template takes that), whose arguments have the form that the tool's schema gives. That needs the extra
        `structure`.

        Raises as `chat_prompt` and `generate`; InvalidRequest for what is no tool, and for tools that the chat template
        does not show; NotEnforceable for a schema that the answer cannot be held to.
        """
        return self.chat_stream(messages, max_tokens, tools=tools, tool_choice=tool_choice, **options).result()

    def chat_stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = MAX_TOKENS,
        *,
        tools: Iterable[Any] | None = None,
        tool_choice: Any = None,
        progress: Progress | None = None,
        owner: int | None = None,
        **options: Unpack[Options],
    ) -> Stream:
        """Asks for an answer as `chat` does, and returns at once. A call comes as one Piece of kind "tool", once it is
        whole. `progress` as of `stream`. What is kept of a request with an `owner` is for that owner's next one: a
        number of a session. Raises as `chat`."""
        choice = choice_of(tools, tool_choice, options)
        request = self._chat_request(messages, choice, max_tokens, options)
        return self._begin(replace(request, owner=owner), progress, choice=choice)

    def chat_streams(
        self,
        messages: Sequence[Mapping[str, Any]],
        n: int,
        max_tokens: int | None = MAX_TOKENS,
        *,
        tools: Iterable[Any] | None = None,
        tool_choice: Any = None,
        variables: Mapping[str, Any] | None = None,
        goes_on: bool = False,
        calls_in_parallel: bool = True,
        **options: Unpack[Options],
    ) -> list[Stream]:
        """Asks for `n` answers to `messages` as `chat` asks for one, and returns at once; seeds and what is read once
        are as of `completions`. `variables` are the template's. With `goes_on` the last message, an assistant's, is the
        beginning of each answer, which is not repeated in its text. Unless `calls_in_parallel`, an answer is
        over with its first call. Raises as `chat`, and then asks for none."""
        choice = replace(choice_of(tools, tool_choice, options), in_parallel=calls_in_parallel)
        if taken := {"messages", "tools", "tokenizer", "goes_on"}.intersection(variables or {}):
            raise InvalidRequest(f"{min(taken)} is no variable that a caller gives to a chat template.")
        shown = dict(variables or {}) | ({"goes_on": True} if goes_on else {})
        return self._begin_all(siblings(self._chat_request(messages, choice, max_tokens, options, shown), n), choice)

    def streams(
        self, prompt: str | Sequence[int], n: int, max_tokens: int | None = MAX_TOKENS, **options: Unpack[Options]
    ) -> list[Stream]:
        """Asks for `n` completions of `prompt`, and returns at once; seeds and what is read once are as of
        `completions`. Raises as `submit`, and then asks for none."""
        return self._begin_all(siblings(self.request(prompt, max_tokens, **options), n))

    async def achat(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = MAX_TOKENS,
        *,
        tools: Iterable[Any] | None = None,
        tool_choice: Any = None,
        **options: Unpack[Options],
    ) -> Completion:
        """Answers as `chat` does, without blocking the event loop. Cancelling the task cancels the request."""
        stream = self.chat_stream(messages, max_tokens, tools=tools, tool_choice=tool_choice, **options)
        return await stream.aresult()

    def achat_stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = MAX_TOKENS,
        *,
        tools: Iterable[Any] | None = None,
        tool_choice: Any = None,
        **options: Unpack[Options],
    ) -> Stream:
        """Answers as `chat` does, for `async for piece in lm.achat_stream(...)`, and returns at once. Leaving the loop
        cancels the request. Raises as `chat_stream`."""
        return self.chat_stream(messages, max_tokens, tools=tools, tool_choice=tool_choice, **options)

    def session(
        self,
        instructions: str | None = None,
        *,
        tools: Iterable[Any] = (),
        transcript: str | Path | Sequence[Mapping[str, Any]] | None = None,
        tool_rounds: int = 8,
        tool_seconds: float = 60.0,
        **options: Unpack[Options],
    ) -> Session:
        """Begins a conversation that keeps its own state, told these `instructions`; or goes on after a `transcript`:
        messages, or a file that a session has saved. `options` are for all its turns, each of which may have others.

        `tools` are JSON schemas, or Python functions, sync or async, which the session runs: in at most `tool_rounds`
        rounds a turn, each call for at most `tool_seconds`. Raises InvalidRequest for what has no meaning, NotFound
        where the model has no chat template, EngineStopped after `close`.
        """
        from elm_mlx.api.session_opening import open_session, toolbox_of  # here, as most programs need none

        self._worker.check()
        toolbox = toolbox_of(tools, tool_rounds, tool_seconds)
        return open_session(self, instructions, transcript, toolbox, options)

    def logits(self, ids: Sequence[int], *, adapter: str | None = None) -> mx.array:
        """The logits after every id: ids (L,) -> evaluated logits (L, V) in float32. With `adapter` they are those of
        the model with this adapter.

        Raises InvalidRequest for ids the model does not have and for an adapter that is not loaded, PromptTooLong for
        more than its context, EngineStopped after `close`, Forked.
        """
        self._worker.check()
        refuse_on_ranks(self._is_shared, "Reading out logits")
        checked, number = self._maker.ids(ids), self._maker.adapters.number(adapter)
        if len(checked) > self.config.context_length:
            raise self._maker.too_long(len(checked))
        return self._worker.call(lambda engine: logits_of(engine, checked, number))

    def scores(
        self, ids: Sequence[int], *, adapter: str | None = None, against: LanguageModel | None = None,
        window: int | None = None, kv_bits: int | str | None = None,
    ) -> Scores:  # fmt: skip
        """How well the model predicts each of the ids but the first after those before it; with `against` also how far
        this is from what that model, without an adapter, predicts. `window` and `kv_bits` hold this model's keys and
        values as in `Options`. Raises as `logits`, and for `against` alike; InvalidRequest for one with another number
        of ids; NotFinite where logits are no numbers."""
        number, kind = self._maker.adapters.number(adapter), self._kind(window, kv_bits)
        for lm in (self, against) if against else (self,):
            lm._worker.check()
            refuse_on_ranks(lm._is_shared, "Scoring a text")
            if len(checked := lm._maker.ids(ids)) > lm.config.context_length:
                raise lm._maker.too_long(len(checked))
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

    def _kind(self, window: int | None, kv_bits: int | str | None) -> CacheKind:
        """How keys and values are held. Raises InvalidRequest for what means nothing to this model."""
        options = {"window": window, "kv_bits": kv_bits}
        refuse_unable(self.config, options)
        return cache_kind(options, self.config.context_length)

    def load_adapter(self, name: str, path: str | Path, *, force: bool = False) -> None:
        """Loads an adapter, LoRA or DoRA, for calls with `adapter=name`: the directory that mlx-lm or PEFT has written
        (adapter_config.json, and a file of safetensors). The model itself stays as it is, and answers as before.

        Adapters take memory beside the model, so caches get less. Raises InvalidRequest for a name that is taken, and
        for an adapter of another model: one whose matrices this one lacks or, unless `force`, one that knows that it
        was made for other weights. Raises NotFound; BadCheckpoint for damaged files; Unsupported for what is no LoRA or
        DoRA; NotEnoughMemory, with the numbers; EngineStopped after `close`, Forked.
        """
        self._worker.check()
        self._adapter_home().load(self._maker.adapters, name, named_path("path", path), force)

    def unload_adapter(self, name: str) -> None:
        """Unloads an adapter: calls cannot name it any more, and its memory is given back when the last request is
        answered that uses it. Raises InvalidRequest where none has the name, EngineStopped after `close`, Forked."""
        self._worker.check()
        self._adapter_home().unload(self._maker.adapters, name)

    @property
    def adapters(self) -> dict[str, LoadedAdapter]:
        """The adapters that are loaded, by name."""
        return self._maker.adapters.loaded

    def _adapter_home(self) -> AdapterHome:
        refuse_adapters(self.config)
        refuse_on_ranks(self._is_shared, "An adapter", "Merge it into the model first: `elm-mlx merge` does that.")
        model = self.model
        assert isinstance(model, Model)
        return AdapterHome(self.directory, self.config, model, self._worker)

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
        self._worker.check()
        refuse_on_ranks(self._is_shared, "Scoring a prompt")
        checked, most = self._maker.ids(ids), check_alternatives(alternatives)
        if len(checked) > self.config.context_length:
            raise self._maker.too_long(len(checked))
        *prompt, last = checked
        number = self._maker.adapters.number(adapter)
        judged = Judged(last, most)
        return Request(tuple(prompt), 1, find=False, keep=False, adapter=number, judged=judged) if prompt else None

    def forget_prefixes(self) -> int:
        """Gives back the memory of keys and values that are kept of earlier requests, or were read by `load_cache`, and
        returns its bytes. For a program that is told that memory is short. Raises EngineStopped after `close`,
        Forked."""
        return self._worker.call(lambda engine: engine.forget_prefixes())

    def save_cache(
        self, prompt: str | Sequence[int], path: str | Path, *, progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> int:  # fmt: skip
        """Reads `prompt` and writes its keys and values into a file, so that another process need not read it; returns
        how many tokens it has. Of the `options` `window` and `kv_bits` count: they say how keys and values are held,
        and the calls that are to use the file must have equal ones; `adapter`, too, which the file records.

        The file, a safetensors one, is whole or not there, and replaces an earlier one of saved keys and values; Ctrl-C
        ends the reading. `progress` is called with (tokens read, in all). Raises as `submit`; InvalidRequest for fewer
        tokens than are ever reused; TargetExists where another file has the name; NotFound without the file's
        directory; DiskFull.
        """
        refuse_on_ranks(self._is_shared, "Saving keys and values")
        place = file_to_write("path", path)
        refuse_other_file(place)
        request = self.request(prompt, 1, **cast(Options, without_form(options)))
        request = replace(request, stop_ids=frozenset(), stopper=None, logprobs=None, hold=True)
        refuse_short(request.prompt)
        files = self._prompt_caches(options.get("adapter"))
        handle = self._worker.submit(request)
        return files.save(place, handle, Stream(handle, self._worker, self.tokenizer, self, progress))

    def load_cache(self, path: str | Path, *, adapter: str | None = None) -> int:
        """Reads keys and values that `save_cache` has written with this `adapter`, and returns how many tokens they are
        of. Calls whose prompts begin with these tokens, with the same `window`, `kv_bits` and `adapter`, need not read
        them again: `stats.cached_tokens` says how many. They stay in memory until `forget_prefixes`, or until requests
        need all of it.

        Raises NotFound; BadCheckpoint for a file that is damaged, or another one; InvalidRequest where it was saved
        with another model, adapter, tokenizer or type of numbers; NotEnoughMemory, with the numbers; EngineStopped,
        Forked."""
        return self._prompt_caches(adapter).load(named_path("path", path))

    def _prompt_caches(self, adapter: str | None) -> PromptCaches:
        refuse_files(self.config)
        refuse_on_ranks(self._is_shared, "A file of keys and values")
        names = self._maker.adapters
        used = names.number(adapter), names.fingerprint(adapter)
        return PromptCaches(self.directory, self.config, self.model.dtype, self._worker, used)

    def close(self) -> None:
        """Cancels all requests and gives the model's memory back. Any later call raises EngineStopped. The last model
        that is closed ends the device thread. Closing twice does nothing, nor does closing in a forked process."""
        if not self._give_back.alive or is_forked():
            return
        self._model = None
        try:
            self._worker.close()
        except BaseException:
            self._worker.close_from_finalizer()  # the wait was interrupted (Ctrl-C), perhaps before the closing began
            raise
        finally:
            if self._give_back.detach():
                self._worker.thread.post_from_finalizer(Order(partial(plan_again, self._worker.thread)))
                let_go(self._holder)

    def __enter__(self) -> LanguageModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chat_request(
        self, messages: Sequence[Mapping[str, Any]], choice: Choice, max_tokens: int | None, options: Options,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> Request:  # fmt: skip
        """What a chat asks of the engine. Raises as `chat`."""
        if choice.tools:
            self._templates.refuse_without_tools()
        prompt = self.chat_prompt(messages, **{**variables, "tools": choice.schemas})
        request = self.request(prompt, max_tokens, **options)
        if choice.must:
            marks, several = self._templates.call_marks, self._templates.takes_several_calls()
            request = self._maker.held(request, choice.asked(marks, takes_several=several))
        return request

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

    def _marks_for(self, choice: Choice | None) -> Marks:
        """The marks in an answer that may call the tools of `choice`."""
        return self._templates.call_marks if choice and choice.tools else self._templates.marks

    def _begin(
        self, request: Request, progress: Progress | None = None, *, patient: bool = False, choice: Choice | None = None
    ) -> Stream:
        """Submits a request whose answer may call the tools of `choice`, as soon as its form is compiled, if it has
        one; a `patient` one never finds the queue full."""
        reading = reading_of(request, self._marks_for(choice), self.tokenizer, choice)
        if reading and reading.one_call:
            request = ended_with_call(request, reading, self.tokenizer)
        form = request.constraint
        compiled = form.compiled if isinstance(form, Structure) else None
        handle = self._worker.submit(request, patient=patient, after=compiled)
        return Stream(handle, self._worker, self.tokenizer, self, progress, reading)


def logits_of(engine: Engine, ids: list[int], adapter: int | None) -> mx.array:
    """The logits after every id by the model with an adapter (None: without), evaluated: L ids -> [L, V] in float32."""
    if not engine.variants.has(adapter):
        raise InvalidRequest("The adapter was unloaded before its turn came.")
    model = engine.variants.of(adapter)
    cache = new_cache(engine.model, engine.layers, len(ids), reserve=len(ids))
    logits = all_logits(model, mx.array([ids]), cache, engine.execution)[0].astype(mx.float32)
    mx.eval(logits)
    return logits
