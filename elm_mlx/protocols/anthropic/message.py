"""The object by which Anthropic's Messages API answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Facts
from elm_mlx.protocols.openai.lead import continues_text, with_lead
from elm_mlx.protocols.token_texts import TokenTexts

if TYPE_CHECKING:
    from elm_mlx.api import Completion
    from elm_mlx.text.tools import ToolCall

Block = dict[str, Any]


def whole(ask: Ask, body: Mapping[str, Any], facts: Facts, completions: Sequence[Completion]) -> dict[str, Any]:
    """The object that answers a request which is not streamed."""
    completion = completions[0]
    content = [] if not completion.reasoning or hides_thinking(body) else [thinking(completion.reasoning)]
    calls = [tool_use(call, dict(call.arguments)) for call in completion.tool_calls]
    if completion.text or not (content or calls):
        texts = TokenTexts(facts.lm.tokenizer)
        content.append(text(with_lead(completion.text, completion, texts, continues_text(ask))))
    return message(facts) | {
        "content": content + calls,
        **stop_of(body, completion),
        "usage": usage_of(completion),
    }


def message(facts: Facts) -> dict[str, Any]:
    """The object of an answer that has not begun."""
    return {
        "id": f"msg_{facts.id}",
        "type": "message",
        "role": "assistant",
        "model": facts.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage(0, 0),
    }


def text(value: str = "") -> Block:
    """A block of text."""
    return {"type": "text", "text": value, "citations": None}


def thinking(value: str = "") -> Block:
    """A block of thinking. Nobody signs it."""
    return {"type": "thinking", "thinking": value, "signature": ""}


def tool_use(call: ToolCall, arguments: Mapping[str, Any]) -> Block:
    """A call of a tool, with those of its arguments that are told with it."""
    return {"type": "tool_use", "id": f"toolu_{call.id.removeprefix('call_')}", "name": call.name, "input": arguments}


def hides_thinking(body: Mapping[str, Any]) -> bool:
    """Whether an answer is to show no thinking."""
    return (body.get("thinking") or {}).get("type") == "disabled"


def stop_of(body: Mapping[str, Any], completion: Completion) -> dict[str, Any]:
    """Why an answer ended, and by which of the request's stop sequences. One of the model's own ends its turn."""
    string = completion.stop_reason
    if completion.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if isinstance(string, str) and string in (body.get("stop_sequences") or ()):
        return {"stop_reason": "stop_sequence", "stop_sequence": string}
    return {"stop_reason": "tool_use" if completion.tool_calls else "end_turn", "stop_sequence": None}


def usage(read: int, generated: int, cached: int = 0) -> dict[str, Any]:
    """Tokens of the prompt that were read, of the answer, and of the prompt that were known: Anthropic counts these
    apart."""
    return {
        "input_tokens": read,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": generated,
    }


def usage_of(completion: Completion) -> dict[str, Any]:
    """What an answer took, in tokens."""
    stats = completion.stats
    return usage(stats.prompt_tokens - stats.cached_tokens, stats.generated_tokens, stats.cached_tokens)


def counted(tokens: int) -> dict[str, int]:
    """The answer of count_tokens to a prompt of so many tokens."""
    return {"input_tokens": tokens}
