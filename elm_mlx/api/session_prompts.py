"""How a session asks its model: through the chat template, or, without one, with the text so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from elm_mlx.api.completion import Completion
from elm_mlx.api.request_maker import RequestMaker
from elm_mlx.api.stream import Stream
from elm_mlx.api.templates import Templates
from elm_mlx.api.tools import Tool
from elm_mlx.api.transcript import Message, pending_calls, written_call
from elm_mlx.engine.prefixes import shared_length
from elm_mlx.engine.request import Request
from elm_mlx.engine.worker import Worker
from elm_mlx.errors import InvalidRequest
from elm_mlx.text.tokenizer import Tokenizer

PROBES = "1", "x"  # messages that share no beginning: what stands before them stands before any


class Conversable(Protocol):
    """A LanguageModel, as a session sees it."""

    tokenizer: Tokenizer
    _worker: Worker
    _maker: RequestMaker
    _templates: Templates

    @property
    def has_chat_template(self) -> bool:
        """As of LanguageModel."""
        ...

    @property
    def request(self) -> Callable[..., Request]:
        """As of LanguageModel."""
        ...

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """As of LanguageModel."""
        ...

    @property
    def chat_stream(self) -> Callable[..., Stream]:
        """As of LanguageModel."""
        ...

    def _begin(self, request: Request) -> Stream: ...


class Prompts(Protocol):
    """How a transcript becomes a prompt, and an answer a message."""

    def ask(self, messages: Sequence[Message], max_tokens: int | None, options: Mapping[str, Any]) -> Stream:
        """Asks for what follows these messages, and returns at once. Raises as `LanguageModel.chat_stream`."""
        ...

    def message(self, stream: Stream, done: Completion) -> Message:
        """The message that an answer is."""
        ...

    def beginning(self, messages: Sequence[Message]) -> list[int]:
        """The ids with which the next turn after these messages begins, whatever is asked. Raises as `ask`."""
        ...


class TemplatePrompts:
    """Asks through a model's chat template, with tools. `owner` is whose keys and values are kept."""

    def __init__(self, lm: Conversable, tools: Sequence[Tool], owner: int) -> None:
        self._lm, self._owner = lm, owner
        self._tools: dict[str, Any] = {"tools": list(tools)} if tools else {}

    def ask(self, messages: Sequence[Message], max_tokens: int | None, options: Mapping[str, Any]) -> Stream:
        """Asks for the next message."""
        return self._lm.chat_stream(messages, max_tokens, owner=self._owner, **self._tools, **options)

    def message(self, stream: Stream, done: Completion) -> Message:
        """The assistant's message: text, reasoning and calls."""
        said: Message = {"role": "assistant", "content": done.text}
        if done.reasoning:
            said["reasoning"] = done.reasoning
        if done.tool_calls:
            said["tool_calls"] = [written_call(call) for call in done.tool_calls]
        return said

    def beginning(self, messages: Sequence[Message]) -> list[int]:
        """What two prompts have in common that ask for different things; nothing while calls wait for results."""
        if pending_calls(messages):
            return []
        if messages and messages[-1]["role"] in ("user", "tool"):
            return self._encode(messages)
        one, other = (self._encode([*messages, {"role": "user", "content": probe}]) for probe in PROBES)
        return one[: shared_length(one, other)]

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        return self._lm.chat_prompt(messages, **self._tools)


class TextPrompts:
    """Asks a model without a chat template to go on with the text of all messages."""

    def __init__(self, lm: Conversable, owner: int) -> None:
        self._lm, self._owner = lm, owner

    def ask(self, messages: Sequence[Message], max_tokens: int | None, options: Mapping[str, Any]) -> Stream:
        """Asks for a continuation. Raises InvalidRequest for messages that a text cannot have."""
        refuse_beyond_text(messages)
        request = self._lm.request(self.beginning(messages), max_tokens, **options)
        return self._lm._begin(replace(request, owner=self._owner))

    def message(self, stream: Stream, done: Completion) -> Message:
        """The continuation, with the blank that may stand before it."""
        decode, prompt = self._lm.tokenizer.decode, stream.prompt
        beyond = len(decode(done.tokens)) - len(done.text)  # characters of a stop string, and after it
        text = decode([*prompt, *done.tokens])
        return {"role": "assistant", "content": text[: len(text) - beyond].removeprefix(decode(prompt))}

    def beginning(self, messages: Sequence[Message]) -> list[int]:
        """The text of these messages, as ids."""
        return self._lm.tokenizer.encode("".join(message["content"] for message in messages))


def refuse_beyond_text(messages: Sequence[Message]) -> None:
    """Raises InvalidRequest for messages that a model without a chat template cannot be given."""
    if any(message["role"] not in ("user", "assistant") or "tool_calls" in message for message in messages):
        raise InvalidRequest("This model has no chat template, so it can be given no system message and no tools.",
                             "Leave them out, or give a {chat_template}.")  # fmt: skip
