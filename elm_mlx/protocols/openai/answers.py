"""What the answers of OpenAI's two APIs have in common: the numbers of tokens, times, why an answer ends, errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import elm_mlx
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Event, Facts, Named
from elm_mlx.protocols.refusal import Refusal
from elm_mlx.protocols.told import reasoning_tokens

if TYPE_CHECKING:
    from elm_mlx.api import Completion, Stats

FINGERPRINT = f"elm-mlx-{elm_mlx.__version__}"  # with one seed answers are equal as long as this is
REASONS = ("stop", "length")
DONE = Event("[DONE]")  # the last event of every stream that did not fail


def head_of(prefix: str, kind: str, facts: Facts) -> dict[str, Any]:
    """The keys with which an answer and each of its events begin."""
    return {
        "id": prefix + facts.id,
        "object": kind,
        "created": facts.created,
        "model": facts.model,
        "system_fingerprint": FINGERPRINT,
    }


def reason_of(completion: Completion) -> str:
    """Why an answer ended, in OpenAI's words."""
    if completion.tool_calls and completion.finish_reason == "stop":
        return "tool_calls"
    return completion.finish_reason if completion.finish_reason in REASONS else "stop"


def usage_of(ask: Ask, completions: Sequence[Completion], facts: Facts) -> dict[str, Any]:
    """The numbers of tokens of a request: those of each prompt count once, however many answers it gets."""
    stats = [completion.stats for completion in completions]
    prompts = [stats[place : place + ask.n] for place in range(0, len(stats), ask.n)]
    prompt, generated = sum(one[0].prompt_tokens for one in prompts), sum(one.generated_tokens for one in stats)
    cached = sum(min(one.cached_tokens for one in answers) for answers in prompts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": sum(reasoning_tokens(one, facts.lm) for one in completions)},
    }


def timings_of(stats: Stats) -> dict[str, Any]:
    """Times of an answer under llama.cpp's names: a key that OpenAI's API does not have, and allows."""
    return {
        "cache_n": stats.cached_tokens,
        "prompt_n": stats.prompt_tokens - stats.cached_tokens,
        "prompt_ms": round(stats.time_to_first_token_s * 1e3, 3),
        "prompt_per_second": stats.prefill_tokens_per_s,
        "predicted_n": stats.generated_tokens,
        "predicted_per_second": stats.decode_tokens_per_s,
    }


def refused(refusal: Refusal) -> Mapping[str, Any]:
    """The body of an error: all four keys, null or not."""
    told = {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.code}
    return {"error": told}


def failed(body: Mapping[str, Any], named: Named, refusal: Refusal) -> list[Event]:
    """All events of a stream that has failed before its model was there: the error."""
    return [Event(refused(refusal), "error")]
