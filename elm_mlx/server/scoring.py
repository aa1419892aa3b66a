"""The log-probabilities of the prompts of a request, where it asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import ScoredPrompt

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel


async def scored_prompts(ask: Ask, lm: LanguageModel, adapter: str | None = None) -> list[ScoredPrompt]:
    """The prompts with the log-probabilities of their tokens, one after the other, so that other requests have their
    turns; none where nobody asks for them. Cancelling the task ends the reading with the next chunk. Raises as
    `LanguageModel.prompt_logprobs`."""
    prompts = ask.prompts if ask.scores_prompts else ()
    return [await scored(prompt, ask.options.get("logprobs", 0), lm, adapter) for prompt in prompts]


async def scored(prompt: str | Sequence[int], most: int, lm: LanguageModel, adapter: str | None) -> ScoredPrompt:
    """One prompt. What stands before the first word of a text is not told: it is none of it."""
    likely = partial(lm.aprompt_logprobs, alternatives=most, adapter=adapter)
    if not isinstance(prompt, str):
        return ScoredPrompt(prompt, [None, *await likely(prompt)])
    ids, told = await asyncio.to_thread(lambda: (lm.tokenizer.encode(prompt), lm.tokenizer.encode_text(prompt)))
    if not ids:
        return ScoredPrompt([], [])
    logprobs = [None, *await likely(ids)]
    return ScoredPrompt(told, logprobs[len(logprobs) - len(told) :])
