"""Shows an answer while it comes, and what it took.

python examples/stream.py [MODEL]
"""

from __future__ import annotations

import sys

import elm_mlx


def main(model: str | None = None) -> None:
    with elm_mlx.load(model) as lm:  # without a model: the built-in demo, which only tells stories
        stream = lm.stream("Once upon a time", max_tokens=64, temperature=0.6, seed=1)
        for piece in stream:
            print(piece.text, end="", flush=True)
        done = stream.completion
        print(f"\nEnded by {done.finish_reason!r}. {done.stats}")


if __name__ == "__main__":
    main(*sys.argv[1:])
