"""Threads that ask one model at once, each at random: what each call must give does not depend on the others."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from helpers.rank_scenes import LONG, TEXTS

import elm_mlx

THREADS = 6


def call(lm: elm_mlx.LanguageModel, seed: int) -> Any:
    """One random call."""
    rng = random.Random(seed)
    text = rng.choice([*TEXTS, LONG, LONG + rng.choice(TEXTS)])
    count = rng.choice([1, 3, 12, 40])
    options: dict[str, Any] = rng.choice(
        [{"plain": True}, {"temperature": 1.0, "seed": seed}, {"temperature": 0.8, "top_k": 9, "seed": seed}]
    )
    match rng.choice(["whole", "stream", "cancel", "several", "batch", "stop", "choices"]):
        case "whole":
            return lm.generate(text, count, **options).tokens
        case "stream":
            return [piece.token for piece in lm.stream(text, count, **options)]
        case "cancel":
            with lm.stream(text, 300, **options) as stream:
                return [piece.token for piece, _ in zip(stream, range(rng.randint(1, 5)), strict=False)]
        case "several":
            return [one.tokens for one in lm.completions(text, 3, count, temperature=1.0, seed=seed)]
        case "batch":
            return [one.tokens for one in lm.batch([text, *TEXTS], count, **options)]
        case "stop":
            return lm.generate(text, count, stop=[" a", "the"], **options).text
        case "choices":
            return lm.generate(text, 40, choices=["a dog", "a cat", "no"], **options).text


def ask_all(lm: elm_mlx.LanguageModel, first: int, count: int) -> list[Any]:
    """So many calls, several at a time, in the order of their seeds."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda seed: call(lm, seed), range(first, first + count)))
