"""What a model answers to messages, shown to it by its chat template, with tools that it may call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Unpack

from elm_mlx.api.completing import Completes
from elm_mlx.api.completion import Completion
from elm_mlx.api.options import MAX_TOKENS, Options
from elm_mlx.api.siblings import siblings
from elm_mlx.api.stream import Stream
from elm_mlx.api.tool_choice import Choice, choice_of
from elm_mlx.api.tools import tool_of
from elm_mlx.arguments import Progress
from elm_mlx.engine.request import Request
from elm_mlx.errors import InvalidRequest


class Chats(Completes):
    """An open model that answers messages, by its chat template."""

    @property
    def has_chat_template(self) -> bool:
        """Whether there is a chat template, the model's own or one from `use_chat_template`."""
        return self._templates.are_there

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
            raise InvalidRequest(f"{min(taken)} is not for callers to set in a chat template. Leave it out.")
        shown = dict(variables or {}) | ({"goes_on": True} if goes_on else {})
        return self._begin_all(siblings(self._chat_request(messages, choice, max_tokens, options, shown), n), choice)

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
