"""What a model is asked, alone and on several ranks: functions that give plain values, which must be equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import elm_mlx
from elm_mlx.errors import InvalidRequest

TEXTS = (
    "Once upon a time",
    "The dog",
    "A little girl named Lily lived in a house near the river, and every day she",
)
LONG = "There was a boy who liked to play with his red ball in the park. " * 6


def together(lm: elm_mlx.LanguageModel) -> Any:
    """Rows of other lengths that join and leave."""
    streams = [lm.submit(text, count, plain=True) for text, count in zip((*TEXTS, LONG), (30, 3, 12, 20), strict=True)]
    streams += [lm.submit(text + " and", 9, plain=True) for text in TEXTS]
    return [stream.result().tokens for stream in streams]


def cancelled(lm: elm_mlx.LanguageModel) -> Any:
    """One is cancelled while another goes on, and one while its prompt waits."""
    one, other = lm.submit(TEXTS[0], 400, plain=True), lm.submit(TEXTS[1], 60, plain=True)
    waiting = [lm.submit(f"{LONG} {number}", 400, plain=True) for number in range(3)]
    first = [next(one).token for _ in range(4)]
    for stream in (one, *waiting):
        stream.cancel()
    return first, other.result().tokens


def stopped(lm: elm_mlx.LanguageModel) -> Any:
    """Stop strings, which rank 0 alone knows."""
    found = [lm.submit(text, 60, plain=True, stop=["the", " a"]) for text in TEXTS]
    return [(one.result().text, one.result().finish_reason, one.result().stop_reason) for one in found]


def formed(lm: elm_mlx.LanguageModel) -> Any:
    """Forms of answers, beside a free one."""
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    found = [
        lm.submit(TEXTS[2], 25, plain=True),
        lm.submit(TEXTS[0], 40, plain=True, choices=["a dog", "a cat and a dog"]),
        lm.submit(TEXTS[1], 60, plain=True, schema=schema),
    ]
    return [(one.result().text, one.result().parsed) for one in found]


def reused(lm: elm_mlx.LanguageModel) -> Any:
    """Prefixes that are kept, and given up."""
    found = []
    for end in ("He", "She", "He", ""):
        answer = lm.generate(LONG + end, 10, plain=True)
        found.append((answer.tokens, answer.stats.cached_tokens))
    return found, lm.forget_prefixes() > 0, lm.generate(LONG, 5, plain=True).stats.cached_tokens


def talked(lm: elm_mlx.LanguageModel) -> Any:
    """Two conversations that keep their state."""
    one, other = lm.session("Be kind.", plain=True), lm.session(plain=True)
    found = [session.respond(text, max_tokens=8).text for text in ("Hello", "And then?") for session in (one, other)]
    del one
    return found, lm.generate(LONG, 3, plain=True).tokens


def drawn(lm: elm_mlx.LanguageModel) -> Any:
    """Sampling with seeds, in one batch, with penalties and filters."""
    ways: list[dict[str, Any]] = [
        {}, {"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.05}, {"repetition_penalty": 1.2, "presence_penalty": 0.5},
        {"logit_bias": {261: 3.0}, "banned_ids": [351]},
    ]  # fmt: skip
    found = [lm.submit(TEXTS[0], 16, temperature=1.0, seed=n, **way) for n, way in enumerate(ways)]
    return [one.result().tokens for one in found]


def several(lm: elm_mlx.LanguageModel) -> Any:
    """Several completions of one prompt."""
    return [one.tokens for one in lm.completions(LONG, 5, 8, temperature=1.0, seed=11)]


def noted(lm: elm_mlx.LanguageModel) -> Any:
    """Log-probabilities, beside rows without."""
    found = [lm.submit(text, 6, plain=True, logprobs=most) for text, most in zip(TEXTS, (3, None, 0), strict=True)]
    entries = [entry for one in found for entry in one.result().logprobs or ()]
    return [
        (round(entry.logprob, 3), [(id, round(value, 3)) for id, value in entry.alternatives]) for entry in entries
    ]  # fmt: skip


def forgotten(lm: elm_mlx.LanguageModel) -> Any:
    """Windows, and caches in few bits, beside a plain row."""
    ways: list[dict[str, Any]] = [{"window": 32}, {"kv_bits": 8}, {"window": 48, "kv_bits": 4}, {}]
    return [one.result().tokens for one in [lm.submit(LONG, 40, plain=True, **way) for way in ways]]


SCENES: dict[str, Callable[[elm_mlx.LanguageModel], Any]] = {
    scene.__name__: scene
    for scene in (together, cancelled, stopped, formed, reused, talked, drawn, several, noted, forgotten)
}


def refusals(lm: elm_mlx.LanguageModel) -> list[str]:
    """What a model on several ranks refuses, as sentences."""
    asked: list[Callable[[], Any]] = [
        lambda: lm.generate("Once", lookup=True),
        lambda: lm.logits([1, 2]),
        lambda: lm.scores([1, 2, 3]),
        lambda: lm.ending_scorer(),
        lambda: lm.prompt_logprobs([1, 2, 3]),
        lambda: lm.save_cache(LONG, "cache.safetensors"),
        lambda: lm.load_cache("cache.safetensors"),
        lambda: lm.load_adapter("name", "."),
        lambda: elm_mlx.load(lm.directory),
    ]
    found = []
    for ask in asked:
        try:
            ask()
        except InvalidRequest as error:
            found.append(str(error))
    return found
