"""The object by which OpenAI's Responses API answers, at each stage of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Facts, Named
from elm_mlx.protocols.openai.entries import entries_of
from elm_mlx.protocols.refusal import Refusal
from elm_mlx.protocols.responses import items
from elm_mlx.protocols.responses.items import COMPLETED, INCOMPLETE, Item
from elm_mlx.protocols.responses.logprobs import told as told_entries
from elm_mlx.protocols.token_texts import TokenTexts
from elm_mlx.protocols.told import reasoning_tokens

if TYPE_CHECKING:
    from elm_mlx.api import Completion

LENGTH = "length"  # the reason of an answer that was cut
FORMAT = ("type", "name", "description", "schema", "strict")  # what a response repeats of a form
TOOL = ("type", "name", "description", "parameters", "strict")  # and of a function, which has at least these:
NO_SCHEMA = {"strict": False, "parameters": None}


def whole(ask: Ask, body: Mapping[str, Any], facts: Facts, completions: Sequence[Completion]) -> dict[str, Any]:
    """The object that answers a request which is not streamed."""
    completion = completions[0]
    return ended_response(response(body, facts), output_of(ask, facts, completion), completion, facts)


def response(body: Mapping[str, Any], facts: Named) -> dict[str, Any]:
    """The object of an answer that has not begun. What a request leaves out is told by what holds then."""
    text, tools = body.get("text") or {}, body.get("tools") or ()
    form = told(text.get("format") or {"type": "text"}, FORMAT)
    return {
        "id": f"resp_{facts.id}",
        "object": "response",
        "created_at": facts.created,
        "status": items.IN_PROGRESS,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": told_whole(body.get("max_output_tokens")),
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
        "text": {"format": form, "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": told_choice(body.get("tool_choice") or "auto"),
        "tools": [NO_SCHEMA | told(tool, TOOL) for tool in tools if tool["type"] == "function"],
        "top_logprobs": told_whole(body.get("top_logprobs")) or 0,
        "top_p": body.get("top_p"),
        "truncation": "disabled",
    }


def told(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those fields of a request's object that a response repeats."""
    return {name: given[name] for name in names if given.get(name) is not None}


def told_whole(number: float | None) -> int | None:
    """A whole number as a response repeats it: JSON may have written 5 as 5.0."""
    return None if number is None else int(number)


def told_choice(given: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """A tool_choice as a response repeats it."""
    if isinstance(given, str):
        return given
    listed = [told(tool, ("type", "name")) for tool in given.get("tools") or ()]
    return told(given, ("type", "name", "mode")) | ({"tools": listed} if listed else {})


def output_of(ask: Ask, facts: Facts, completion: Completion) -> list[Item]:
    """The items of a whole answer: its reasoning, its message and its calls. A cut is told by the last item, unless
    that is a call: only whole ones are told."""
    status = INCOMPLETE if completion.finish_reason == LENGTH else COMPLETED
    calls = completion.tool_calls
    output = []
    if completion.reasoning:
        is_all = not (completion.text or calls)
        output.append(items.whole_reasoning(f"rs_{facts.id}0", completion.reasoning, status if is_all else COMPLETED))
    if completion.text or not (output or calls):
        entries, ended = logprobs_of(completion, facts), COMPLETED if calls else status
        output.append(items.whole_message(f"msg_{facts.id}{len(output)}", completion.text, ended, entries))
    for call in calls:
        output.append(items.whole_call(f"fc_{facts.id}{len(output)}", call))
    return output


def logprobs_of(completion: Completion, facts: Facts) -> list[Item]:
    """The log-probabilities of the text of a whole answer; none where none were asked for."""
    if completion.logprobs is None:
        return []
    texts = TokenTexts(facts.lm.tokenizer)
    # The tokens of reasoning have no place for theirs.
    return told_entries(entries_of(completion, texts, behind=completion.reasoning or ""), texts)


def ended_response(
    begun: Mapping[str, Any], output: Sequence[Item], completion: Completion, facts: Facts
) -> dict[str, Any]:
    """The object of an answer that has ended."""
    is_cut = completion.finish_reason == LENGTH
    return {
        **begun,
        "status": INCOMPLETE if is_cut else COMPLETED,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": list(output),
        "usage": usage_of(completion, facts),
    }


def usage_of(completion: Completion, facts: Facts) -> dict[str, Any]:
    """What an answer took, in tokens."""
    prompt, generated = completion.stats.prompt_tokens, completion.stats.generated_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": completion.stats.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens(completion, facts.lm)},
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
