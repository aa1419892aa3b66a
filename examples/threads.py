"""Asks one model from several threads at once: their requests are answered together, and each may be given up.

python examples/threads.py
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import elm_mlx

OPENINGS = ("Once upon a time", "In a small village", "The old sailor", "Every morning")


def tell(lm: elm_mlx.LanguageModel, opening: str) -> str:
    """One story's beginning. `generate` may be called in any thread."""
    return opening + " " + lm.generate(opening, max_tokens=24, temperature=0.8, seed=1).text


def first_words(lm: elm_mlx.LanguageModel, opening: str, seconds: float) -> str:
    """As much of a long story as comes in so many seconds."""
    try:
        return lm.submit(opening, max_tokens=None).result(seconds).text
    except elm_mlx.errors.TimedOut as error:  # the request was cancelled, and gives its memory back
        return error.completion.text


def main() -> None:
    with elm_mlx.load() as lm, ThreadPoolExecutor(len(OPENINGS)) as pool:
        for story in pool.map(lambda opening: tell(lm, opening), OPENINGS):
            print(story)
        print("In a quarter of a second:", first_words(lm, OPENINGS[0], 0.25))


if __name__ == "__main__":
    main()
