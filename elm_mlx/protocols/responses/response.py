"""The object by which OpenAI's Responses API answers, at each stage of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Facts
from elm_mlx.protocols.refusal import Refusal
from elm_mlx.protocols.responses import items
from elm_mlx.protocols.responses.items import COMPLETED, INCOMPLETE, Item
from elm_mlx.protocols.responses.logprobs import logprobs_of
from elm_mlx.protocols.told import calls_told, reasoning_tokens

if TYPE_CHECKING:
    from elm_mlx.api import Completion, LanguageModel

LENGTH = "length"  # the reason of an answer that was cut
TOOL = ("type", "name", "description", "parameters", "strict")


def whole(ask: Ask, body: Mapping[str, Any], facts: Facts, completions: Sequence[Completion]) -> dict[str, Any]:
    """The object that answers a request which is not streamed."""
    completion = completions[0]
    return ended_response(response(body, facts), output_of(ask, facts, completion), completion, facts.lm)


def response(body: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The object of an answer that has not begun. What a request leaves out is told by what holds then."""
    text, tools = body.get("text") or {}, body.get("tools") or ()
    return {
        "id": f"resp_{facts.id}",
        "object": "response",
        "created_at": facts.created,
        "status": items.IN_PROGRESS,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": None,
        "metadata": body.get("metadata") or {},
        "model": facts.model,
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": body.get("temperature"),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [told_tool(tool) for tool in tools if tool["type"] == "function"],
        "top_logprobs": body.get("top_logprobs") or 0,
        "top_p": body.get("top_p"),
        "truncation": "disabled",
    }


def told_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function of a request as a response repeats it."""
    return {"strict": False, "parameters": None} | {name: tool[name] for name in TOOL if tool.get(name) is not None}


def output_of(ask: Ask, facts: Facts, completion: Completion) -> list[Item]:
    """The items of a whole answer: its reasoning, its message and its calls. A cut is told by the last item."""
    status = INCOMPLETE if completion.finish_reason == LENGTH else COMPLETED
    calls = calls_told(ask, completion)
    output = []
    if completion.reasoning:
        is_all = not (completion.text or calls)
        output.append(items.whole_reasoning(f"rs_{facts.id}0", completion.reasoning, status if is_all else COMPLETED))
    if completion.text or not (output or calls):
        entries = logprobs_of(completion, facts.lm)
        output.append(items.whole_message(f"msg_{facts.id}{len(output)}", completion.text, status, entries))
    for call in calls:
        output.append(items.whole_call(f"fc_{facts.id}{len(output)}", call))
    return output


def ended_response(
    begun: Mapping[str, Any], output: Sequence[Item], completion: Completion, lm: LanguageModel
) -> dict[str, Any]:
    """The object of an answer that has ended."""
    is_cut = completion.finish_reason == LENGTH
    return {
        **begun,
        "status": INCOMPLETE if is_cut else COMPLETED,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": list(output),
        "usage": usage_of(completion, lm),
    }


def usage_of(completion: Completion, lm: LanguageModel) -> dict[str, Any]:
    """What an answer took, in tokens."""
    prompt, generated = completion.stats.prompt_tokens, completion.stats.generated_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": completion.stats.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens(completion, lm)},
        "total_tokens": prompt + generated,
    }


def failed_response(begun: Mapping[str, Any], output: Sequence[Item], refusal: Refusal) -> dict[str, Any]:
    """The object of an answer that failed after it had begun, with what there is of it. Its code is one of the few that
    OpenAI's schema allows there."""
    code = {429: "rate_limit_exceeded"}.get(
        refusal.status, "invalid_prompt" if refusal.status < 500 else "server_error"
    )
    error = {"code": code, "message": refusal.message}
    return {**begun, "status": "failed", "error": error, "output": list(output)}
