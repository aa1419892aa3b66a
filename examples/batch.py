"""Completes many prompts, several at a time: in order, and as they end.

python examples/batch.py
"""

from __future__ import annotations

import elm_mlx

ANIMALS = ("fox", "hen", "cat", "dog", "mouse", "bear", "owl", "pig", "goat", "duck")
PROMPTS = [f"Once upon a time there was a little {animal}" for animal in ANIMALS]


def main() -> None:
    with elm_mlx.load() as lm:
        for prompt, done in zip(PROMPTS, lm.batch(PROMPTS, max_tokens=16), strict=True):
            print(prompt, done.text)
        print("The first three to end:")
        answers = lm.batch(PROMPTS, max_tokens=16, ordered=False)
        for _, (index, done) in zip(range(3), answers, strict=False):
            print(f"{index}: {done.stats.generated_tokens} tokens")
        answers.close()  # cancels the rest; so does leaving the answers alone


if __name__ == "__main__":
    main()
