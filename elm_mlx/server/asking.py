"""From what a client asks to the streams of a model that answer it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from elm_mlx.config.generation import FILTER_NAMES
from elm_mlx.errors import BadCheckpoint, NotFinite, NotFound
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.refusal import FieldRefused

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel
    from elm_mlx.api.stream import Stream

log = logging.getLogger("elm_mlx.server")
SHORT = 2000  # characters or ids that are encoded in the event loop, in some 2 ms
NO_TEMPLATE = "This model has no chat template: it completes text, through /v1/completions."


async def streams_of(ask: Ask, lm: LanguageModel, adapter: str | None = None) -> list[Stream]:
    """Asks a model with an adapter (None: without), in another thread where that takes long, and returns at once:
    number i answers prompt i // n.

    Raises as `LanguageModel.chat` and `LanguageModel.submit`, and FieldRefused for a chat without a template.
    """
    return submit(ask, lm, adapter) if is_light(ask) else await asyncio.to_thread(submit, ask, lm, adapter)


def is_light(ask: Ask) -> bool:
    """Whether a request is asked for in so little time that all others can wait for it."""
    texts = ask.prompts if ask.messages is None else ask.messages
    return not ask.tools and size_of([texts, ask.options, ask.template_variables], SHORT) <= SHORT


def size_of(value: Any, most: int) -> int:
    """How many characters and numbers a value of JSON has, counted until there are more than `most`."""
    parts: Iterable[Any] = ()
    match value:
        case str():
            return len(value)
        case Mapping():
            parts = value.values()
        case list() | tuple():
            parts = value
    size = 1
    for part in parts:
        size += size_of(part, most)
        if size > most:
            break
    return size


def submit(ask: Ask, lm: LanguageModel, adapter: str | None = None) -> list[Stream]:
    """Asks a model, and returns at once: either all streams are begun or none. Raises as `streams_of`."""
    begun: list[Stream] = []
    try:
        if ask.messages is not None:
            return submit_chat(ask, lm, adapter)
        for prompt in ask.prompts:
            begun += lm.streams(prompt, ask.n, ask.max_tokens, **options_for(ask, lm), adapter=adapter)
    except BaseException:
        for stream in begun:
            stream.cancel()
        raise
    return begun


def options_for(ask: Ask, lm: LanguageModel) -> Mapping[str, Any]:
    """The options of a request, but for filters of a draw where there is none: a client does not know that this model
    takes the likeliest id unless a temperature is given, and they would change nothing, which the library refuses."""
    if not lm.is_greedy or ask.options.get("temperature") is not None:
        return ask.options
    return {name: value for name, value in ask.options.items() if name not in FILTER_NAMES}


def submit_chat(ask: Ask, lm: LanguageModel, adapter: str | None) -> list[Stream]:
    """Asks for the answers to a chat. Raises as `streams_of`."""
    assert ask.messages is not None
    with template_errors(lm):
        return lm.chat_streams(
            ask.messages, ask.n, ask.max_tokens, tools=ask.tools, tool_choice=ask.tool_choice,
            variables=ask.template_variables, goes_on=ask.goes_on,
            calls_in_parallel=ask.calls_in_parallel, **options_for(ask, lm), adapter=adapter,
        )  # fmt: skip


@contextmanager
def template_errors(lm: LanguageModel) -> Iterator[None]:
    """Makes errors of a chat's messages of those of a model's chat template: it is missing, or fails."""
    try:
        yield
    except NotFound as error:
        if lm.has_chat_template:
            raise
        raise FieldRefused("messages", NO_TEMPLATE, "no_chat_template") from error
    except NotFinite:
        raise
    except BadCheckpoint as error:  # a template that fails on some messages works with others
        log.warning("A chat template failed: %s", error)
        raise FieldRefused("messages", "The model's chat template fails on these messages.") from error
