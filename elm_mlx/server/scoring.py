"""The log-probabilities of the prompts of a request, where it asks for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from elm_mlx.errors import Cancelled
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import ScoredPrompt

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel, TokenLogprob


async def scored_prompts(ask: Ask, lm: LanguageModel, adapter: str | None = None) -> list[ScoredPrompt]:
    """The prompts with the log-probabilities of their tokens, one after the other, so that other requests have their
    turns; none where nobody asks for them. Cancelling the task ends the reading with the next chunk. Raises as
    `LanguageModel.prompt_logprobs`."""
    is_over = threading.Event()

    def go_on(done: int, total: int) -> None:
        if is_over.is_set():
            raise Cancelled("Nobody waits for these log-probabilities any more.")

    prompts = ask.prompts if ask.scores_prompts else ()
    try:
        most: int = ask.options.get("logprobs", 0)
        likely = partial(lm.prompt_logprobs, adapter=adapter, progress=go_on)
        return [await asyncio.to_thread(score, prompt, most, lm, likely) for prompt in prompts]
    finally:
        is_over.set()


def score(
    prompt: str | Sequence[int], most: int, lm: LanguageModel, likely: Callable[..., list[TokenLogprob]]
) -> ScoredPrompt:
    """Asks `likely`, a model's `prompt_logprobs`, about one prompt. What stands before the first word of a text is not
    told: it is none of it."""
    if not isinstance(prompt, str):
        return ScoredPrompt(prompt, [None, *likely(prompt, most)])
    ids, told = lm.tokenizer.encode(prompt), lm.tokenizer.encode_text(prompt)
    if not ids:
        return ScoredPrompt([], [])
    logprobs = [None, *likely(ids, most)]
    return ScoredPrompt(told, logprobs[len(logprobs) - len(told) :])
