"""A context and what may follow it, as ids: where the one ends and the other begins, exactly, with one BOS before both.

A tokenizer may make other tokens of the two texts together than of each. What counts is the whole text: the end begins
where its ids differ from those of the context alone, so a token that joins both is part of the end. As in lm-eval,
blanks at the end of a context belong to what follows (`_encode_pair` of its TemplateLM), and a text that is too long
loses its beginning, BOS too (`_loglikelihood_tokens` of its HFLM).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from elm_mlx import LanguageModel
from elm_mlx.api.endings import Ending
from elm_mlx.errors import InvalidRequest
from elm_mlx.text.tokenizer import Tokenizer


def ids_in_front(tokenizer: Tokenizer) -> list[int]:
    """What stands before every text: BOS as the model wants it. Where it wants none, BOS still stands before a text
    that would begin with what is to be predicted, or the token that ends a text. Raises InvalidRequest for a model with
    neither."""
    front = (
        tokenizer.encode("") or [id for id in (tokenizer.bos_token_id, tokenizer.eos_token_id) if id is not None][:1]
    )
    if not front:
        raise InvalidRequest("This model's tokenizer has no token that begins or ends a text, so nothing can stand "
                             "before the first token that is scored. Take another model.")  # fmt: skip
    return front


def text_ending(tokenizer: Tokenizer, context: str, ending: str) -> Ending:
    """A context and what follows it, as the ids of both together. Raises InvalidRequest for no valid Unicode."""
    bare = context.rstrip()
    whole = tokenizer.encode_text(context + ending)
    start = common(tokenizer.encode_text(bare), whole)
    front = tokenizer.encode("") if start else ids_in_front(tokenizer)
    return Ending((*front, *whole), len(whole) - start)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def chat_ending(lm: LanguageModel, messages: list[dict[str, str]], goes_on: bool, ending: str) -> Ending:
    """The ids of a chat and of an answer's beginning, by the model's chat template; with `goes_on` the last message is
    an answer that has begun. Raises as `LanguageModel.chat_prompt`."""
    *before, last = messages
    begun = [*before, {**last, "content": last["content"] + ending}] if goes_on else [*messages, answer_of(ending)]
    whole = lm.chat_prompt(begun, goes_on=True)
    start = common(lm.chat_prompt(messages, **({"goes_on": True} if goes_on else {})), whole)
    return Ending((*whole,), len(whole) - start)


def answer_of(text: str) -> dict[str, str]:
    """A message of the model's."""
    return {"role": "assistant", "content": text}


def cut(ending: Ending, context: int) -> Ending:
    """The last ids of a text that a model of this context reads; the very last is only predicted. Raises InvalidRequest
    where what is to be scored is longer by itself."""
    if ending.scored > context:
        raise InvalidRequest(f"An end of {ending.scored:,} tokens is to be scored, and the model's context is "
                             f"{context:,}. Take a model with a longer context, or a shorter text.")  # fmt: skip
    return Ending(ending.ids[-(context + 1) :], ending.scored)


def rolling(ids: Sequence[int], front: Sequence[int], context: int) -> Iterator[Ending]:
    """A whole text in windows, each id scored once: the first window begins with the last id in `front`, each later one
    has as much before what it scores as fits, at least one id. As lm-eval's get_rolling_token_windows with a context of
    one."""
    done = min(context, len(ids))
    if ids:
        yield Ending((front[-1], *ids[:done]), done)
    while done < len(ids):
        end = min(done + context, len(ids))
        yield Ending((*ids[max(0, end - context - 1) : end],), end - done)
        done = end
