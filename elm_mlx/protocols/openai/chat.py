"""Chat completions: a Dialect. POST /v1/chat/completions of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Events, Facts
from elm_mlx.protocols.fields import Fields, fields_of
from elm_mlx.protocols.openai.answers import failed, head_of, refused, timings_of, usage_of
from elm_mlx.protocols.openai.chat_answer import choice_of
from elm_mlx.protocols.openai.chat_events import ChatEvents
from elm_mlx.protocols.openai.lead import continues_text
from elm_mlx.protocols.openai.messages import ends_with_beginning, read_messages
from elm_mlx.protocols.openai.options import answers_in, max_tokens_in, model_in, options_in, streamed_in
from elm_mlx.protocols.openai.table import CHAT_FIELDS
from elm_mlx.protocols.openai.tools import chosen, tools_in
from elm_mlx.protocols.openai.values import flag_in, whole_in
from elm_mlx.protocols.refusal import FieldRefused
from elm_mlx.protocols.token_texts import TokenTexts

if TYPE_CHECKING:
    from elm_mlx.api import Completion

__all__ = ["events", "failed", "read", "refused", "whole"]

MOST_ALTERNATIVES = 20
# What a request cannot set as a variable of the template, since it has fields for it.
NO_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt", "chat_template")


def read(body: Mapping[str, Any], *, strict: bool) -> Ask:
    """What a chat completion asks. Raises FieldRefused."""
    fields = fields_of(body, CHAT_FIELDS, strict=strict)
    messages, unknown = read_messages(body.get("messages"))
    for name in unknown:
        fields.leftovers.add(name, f"{name} is not a field that elm-mlx knows.")
    tools, choice = chosen(fields, tools_in(fields))
    return Ask(
        model=model_in(body),
        messages=messages,
        max_tokens=most_tokens(body),
        options=options_in(fields) | logprobs_in(body),
        tools=tools,
        tool_choice=choice,
        n=answers_in(body),
        streamed=streamed_in(fields),
        goes_on=goes_on(body, messages),
        calls_in_parallel=fields.flag("parallel_tool_calls") is not False,
        template_variables=variables_in(fields),
        ignored=tuple(fields.leftovers.names),
    )


def most_tokens(body: Mapping[str, Any]) -> int | None:
    """How many tokens the answer may have; None for as many as there is room for. Raises FieldRefused, also where the
    two names of this field have two values."""
    old, new = max_tokens_in(body), max_tokens_in(body, "max_completion_tokens")
    names = ("max_tokens", "max_completion_tokens")
    if all(body.get(name) is not None for name in names) and old != new:
        raise FieldRefused(names[0], f"{' and '.join(names)} mean the same and differ. Leave one out.")
    return old if new is None else new


def logprobs_in(body: Mapping[str, Any]) -> dict[str, Any]:
    """The option `logprobs`, if a request asks for it. Raises FieldRefused."""
    asked, most = flag_in(body, "logprobs"), whole_in(body, "top_logprobs", 0, MOST_ALTERNATIVES)
    if most and not asked:
        raise FieldRefused("top_logprobs", "top_logprobs means nothing without logprobs. Set that to true.")
    return {"logprobs": most or 0} if asked else {}


def goes_on(body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last message is to be continued, as it is where it is the assistant's, unless the request wants a
    turn of its own for the answer. Raises FieldRefused for what no chat can be."""
    wanted, new_turn = flag_in(body, "continue_final_message"), flag_in(body, "add_generation_prompt")
    can = ends_with_beginning(messages)
    if wanted and (new_turn or not can):
        raise FieldRefused("continue_final_message", "continue_final_message needs a last message of the assistant "
                           "with a text and no calls, and no add_generation_prompt.")  # fmt: skip
    does = can and wanted is not False and new_turn is not True
    if new_turn is False and not does:
        raise FieldRefused("add_generation_prompt", "add_generation_prompt is false, and there is no last message of "
                           "the assistant that could be continued. Leave it out.")  # fmt: skip
    return does


def variables_in(body: Fields) -> Mapping[str, Any]:
    """The variables of the chat template. Raises FieldRefused for one that a request has a field for."""
    variables = body.inner("chat_template_kwargs").value
    if found := next((name for name in NO_VARIABLES if name in variables), None):
        where = f"chat_template_kwargs.{found}"
        raise FieldRefused(where, f"{where} is no variable of a template. Leave it out.", "unsupported_parameter")
    return variables


def whole(ask: Ask, body: Mapping[str, Any], facts: Facts, completions: Sequence[Completion]) -> Mapping[str, Any]:
    """The chat.completion object."""
    texts, follows = TokenTexts(facts.lm.tokenizer), continues_text(ask)
    return {
        **head_of("chatcmpl-", "chat.completion", facts),
        "choices": [choice_of(index, one, texts, goes_on=follows) for index, one in enumerate(completions)],
        "usage": usage_of(ask, completions, facts),
        "timings": timings_of(completions[0].stats),
    }


def events(ask: Ask, body: Mapping[str, Any], facts: Facts) -> Events:
    """The stream of a request."""
    return ChatEvents(ask, facts, body)
