"""From what a call asks to the Request that the engine gets. All that a caller gives is judged here, before anything is
queued."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from elm_mlx.api.adapter_names import AdapterNames
from elm_mlx.api.cache_kind import cache_kind
from elm_mlx.api.options import Options, check_ids, sampling_for
from elm_mlx.api.stopping import stopping
from elm_mlx.api.structure import Asked, form_in, structure_of
from elm_mlx.api.templates import Templates
from elm_mlx.api.unable import refuse_on_ranks, refuse_unable
from elm_mlx.arguments import whole_number
from elm_mlx.config.stop_strings import check_stop_strings
from elm_mlx.engine.request import Request
from elm_mlx.errors import InvalidRequest, PromptTooLong
from elm_mlx.store.load import LoadedModel
from elm_mlx.text.grammar import Grammars


class RequestMaker:
    """Makes requests to a loaded model, by its vocabulary, its context, its own sampling and what ends its answers."""

    def __init__(self, loaded: LoadedModel, templates: Templates, is_shared: bool = False) -> None:
        """`is_shared` says that several ranks hold the model together."""
        self.is_shared = is_shared
        self.config, self.tokenizer = loaded.config, loaded.tokenizer
        self.sampling, self.stop_strings = loaded.sampling, loaded.stop_strings
        self._named_stop_ids, self._templates = loaded.stop_ids, templates
        self.grammars = Grammars(loaded.tokenizer, loaded.config.vocab_size)
        self.adapters = AdapterNames()

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every id that ends an answer: those that the model's files name, and those that end a turn in a template."""
        # All are one set: an outdated file must not keep a model from stopping.
        return self._named_stop_ids | self._templates.turn_ends

    def request(self, prompt: str | Sequence[int], max_tokens: int | None, options: Options) -> Request:
        """What a call asks of the engine. Raises as `LanguageModel.submit` does for what the caller gave."""
        sampling = sampling_for(self.sampling, options)
        check_ids(sampling, options, self.config.vocab_size)
        refuse_unable(self.config, options)
        refuse_on_ranks(self.is_shared and options.get("lookup") is True, "Lookup", "Leave {lookup} out.")
        ids = self.ids(prompt)
        strings = *self.stop_strings, *check_stop_strings(options.get("stop"))
        ends = stopping(self.tokenizer, self.stop_ids, strings)
        room = self.room(len(ids), max_tokens, options.get("window"))
        reuse = options.get("reuse") is not False
        request = Request(
            tuple(ids),
            room,
            sampling,
            options.get("seed"),
            ends.ids,
            find=reuse,
            keep=reuse,
            logprobs=options.get("logprobs"),
            cache=cache_kind(options, self.config.context_length),
            stopper=ends.stopper,
            lookup=options.get("lookup") is True,
            adapter=self.adapters.number(options.get("adapter")),
        )
        return self.held(request, asked) if (asked := form_in(options)) else request

    def held(self, request: Request, asked: Asked) -> Request:
        """The request, its answer held to a form. Raises as `structure_of`."""
        room = request.max_tokens
        if room is None and request.cache.window is None:
            room = self.config.context_length - len(request.prompt)
        return replace(request, constraint=structure_of(asked, self.grammars, request.stop_ids, room))

    def check(self, prompts: Iterable[str | Sequence[int]], max_tokens: int | None, options: Options) -> None:
        """Raises what `LanguageModel.batch` raises before it takes a prompt."""
        check_ids(sampling_for(self.sampling, options), options, self.config.vocab_size)
        cache_kind(options, self.config.context_length)
        refuse_unable(self.config, options)
        refuse_on_ranks(self.is_shared and options.get("lookup") is True, "Lookup", "Leave {lookup} out.")
        self.room(1, max_tokens)
        self.adapters.number(options.get("adapter"))
        if asked := form_in(options):
            self.grammars.compile(asked.form)
        if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
            raise InvalidRequest(f"prompts is of type {type(prompts).__name__}; give a list of prompts.")

    def ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The prompt as ids. Raises InvalidRequest where it cannot be, and for ids that the model does not have."""
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt)
        listed = prompt.tolist() if hasattr(prompt, "tolist") else prompt
        if isinstance(listed, bytes | bytearray | Mapping) or not isinstance(listed, Iterable):
            raise InvalidRequest(f"The prompt is of type {type(prompt).__name__}; give text or a list of token ids.")
        ids = [whole_number("A token id", token) for token in listed]
        if not ids:
            raise InvalidRequest("The prompt holds no token, and the model needs one to begin with. Give some text.")
        for token in ids:
            if not 0 <= token < self.config.vocab_size:
                raise InvalidRequest(self.tokenizer.why_beyond(token, self.config.vocab_size))
        return ids

    def room(self, prompt: int, max_tokens: int | None, window: int | None = None) -> int | None:
        """How many tokens the answer to a prompt of so many may have: those asked for, at most those that the context
        has left, unless there is a window; None where the engine shall say. Raises InvalidRequest, PromptTooLong."""
        wanted = None if max_tokens is None else whole_number("max_tokens", max_tokens)
        if wanted is not None and wanted < 1:
            raise InvalidRequest(f"max_tokens is {wanted}; it must be above 0.")
        if window is not None:
            return wanted
        if prompt >= self.config.context_length:
            raise self.too_long(prompt, "Or give a {window}: then all but the last tokens are forgotten.")
        return None if wanted is None else min(wanted, self.config.context_length - prompt)

    def too_long(self, length: int, advice: str = "") -> PromptTooLong:
        """The error for a prompt of so many tokens, which the context has no room for."""
        return PromptTooLong(f"The prompt has {length} tokens and the model's context {self.config.context_length}. "
                             "Shorten the prompt.", advice, length, self.config.context_length)  # fmt: skip
