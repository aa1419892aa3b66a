"""The answer of a chat completion: its message, its choices, and the whole object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.openai.answers import reason_of
from elm_mlx.protocols.openai.entries import entries_of
from elm_mlx.protocols.openai.lead import with_lead
from elm_mlx.protocols.openai.token_logprobs import of_chat
from elm_mlx.protocols.token_texts import TokenTexts
from elm_mlx.protocols.told import arguments_text

if TYPE_CHECKING:
    from elm_mlx.api import Completion
    from elm_mlx.text.tools import ToolCall


def message_of(completion: Completion, text: str) -> dict[str, Any]:
    """The message of an answer: its text, and its calls. Where it has only calls its content is null."""
    calls = completion.tool_calls
    message: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
    if completion.reasoning is not None:
        message["reasoning_content"] = completion.reasoning
    if calls:
        message["tool_calls"] = [call_of(call) for call in calls]
    return message


def call_of(call: ToolCall) -> dict[str, Any]:
    """A call of a tool; its arguments are a text."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments_text(call)}}


def choice_of(
    index: int, completion: Completion, texts: TokenTexts | None = None, *, goes_on: bool = False
) -> dict[str, Any]:
    """One choice of a chat.completion. An answer that `goes_on` with a text keeps the blank before its first word.
    `texts` are needed for that, and for log-probabilities."""
    text, logprobs = completion.text, None
    if texts:
        text = with_lead(text, completion, texts, goes_on)
    if texts and completion.logprobs is not None:
        logprobs = of_chat(entries_of(completion, texts, keeps_blank=goes_on), texts)
    message = message_of(completion, text)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason_of(completion)}
