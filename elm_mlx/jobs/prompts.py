"""What an answer's line says of its request where it is to teach another model: enough to be a row of training."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from elm_mlx.jobs.ask import Ask
from elm_mlx.protocols.openai.lead import has_text, with_lead
from elm_mlx.protocols.token_texts import TokenTexts

if TYPE_CHECKING:
    from elm_mlx.api import Completion
    from elm_mlx.text.tokenizer import Tokenizer

MESSAGES, PROMPT, RAW, WHOLE = "messages", "prompt", "raw", "completion"
TAILS = ((), (MESSAGES,), (PROMPT,), (PROMPT, RAW, WHOLE))  # the keys that a line may have after its own


def fields_of(ask: Ask, is_raw: bool, completion: Completion, tokenizer: Tokenizer) -> dict[str, Any]:
    """The messages of a request, or its prompt. A prompt that was given to the model as it is (`is_raw`) is marked as
    "raw", and the answer to it has the blank that may stand between the two, which the answer's text leaves out."""
    if ask.messages is not None:
        return {MESSAGES: ask.messages}
    assert ask.prompt is not None  # a request has one or the other
    if not is_raw:
        return {PROMPT: ask.prompt}
    whole = with_lead(completion.text, completion, TokenTexts(tokenizer), has_text(ask.prompt, tokenizer))
    return {PROMPT: ask.prompt, RAW: True, WHOLE: whole}


def is_shape(keys: tuple[str, ...], shapes: tuple[tuple[str, ...], ...]) -> bool:
    """Whether these are the keys of an answer, which have one of these shapes without what is said of its request."""
    return any(keys == shape + tail for shape, tail in product(shapes, TAILS))
