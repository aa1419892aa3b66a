"""The log-probabilities of the prompts of a request, where it asks for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from elm_mlx.arguments import Progress
from elm_mlx.errors import Cancelled
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import ScoredPrompt

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel


async def scored_prompts(ask: Ask, lm: LanguageModel) -> list[ScoredPrompt]:
    """The prompts with the log-probabilities of their tokens, one after the other, so that other requests have their
    turns; none where nobody asks for them. Cancelling the task ends the reading with the next chunk. Raises as
    `LanguageModel.prompt_logprobs`."""
    is_over = threading.Event()

    def go_on(done: int, total: int) -> None:
        if is_over.is_set():
            raise Cancelled("Nobody waits for these log-probabilities any more.")

    prompts = ask.prompts if ask.scores_prompts else ()
    try:
        return [await asyncio.to_thread(score, prompt, ask.options["logprobs"], lm, go_on) for prompt in prompts]
    finally:
        is_over.set()


def score(prompt: str | Sequence[int], most: int, lm: LanguageModel, progress: Progress) -> ScoredPrompt:
    """Asks the model about one prompt. What stands before the first word of a text is not told: it is none of it."""
    if not isinstance(prompt, str):
        return ScoredPrompt(prompt, [None, *lm.prompt_logprobs(prompt, most, progress=progress)])
    ids, told = lm.tokenizer.encode(prompt), lm.tokenizer.encode_text(prompt)
    if not ids:
        return ScoredPrompt([], [])
    logprobs = [None, *lm.prompt_logprobs(ids, most, progress=progress)]
    return ScoredPrompt(told, logprobs[len(logprobs) - len(told) :])
