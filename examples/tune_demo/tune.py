"""The built-in demo learns a new kind of story, letters, from 300 made ones: in minutes, on a CPU.

    python examples/tune_demo/tune.py [--output DIR] [--epochs 6] [--resume]

Prints an answer before and after, and bits per token of letters and of stories that training never saw. DIR, by default
letters-adapter, gets the data, the adapter (`elm-mlx generate --adapter DIR/adapter`) and the plot of the losses.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import letters
import numpy as np

import elm_mlx
from elm_mlx.demo import demo_directory
from elm_mlx.errors import NotFound
from elm_mlx.train import train

if TYPE_CHECKING:
    from elm_mlx.train.job import Step

PROMPT, NAME = "Dear Ida,", "letters"
# Six times the default rate: a model as small as this takes it. From 1e-3 on it loses its English before it learns.
HOW = {"rank": 8, "batch_size": 4, "learning_rate": 6e-4, "schedule": "cosine", "warmup": 5, "evaluate_every": 75}


def main() -> None:
    """Writes the data, measures, trains, and measures again."""
    parser = argparse.ArgumentParser(description="The built-in demo learns to write letters, in minutes on a CPU.")
    parser.add_argument("--output", type=Path, default=Path("letters-adapter"), metavar="DIR", help="where all goes")
    parser.add_argument("--epochs", type=int, default=6, help="how often each letter is learned (6)")
    parser.add_argument("--letters", type=int, default=letters.TRAINING, help="how many are learned (300)")
    parser.add_argument("--held-out", type=int, default=letters.HELD_OUT, help="how many are measured (60)")
    parser.add_argument("--resume", action="store_true", help="go on where a training was stopped")
    asked = parser.parse_args()
    with suppress(NotFound):  # some machines have no fast BLAS, which only saves time
        elm_mlx.use_fast_blas()
    data, adapter = asked.output / "data", asked.output / "adapter"
    letters.write_data(data, asked.letters)
    with elm_mlx.load() as lm:
        print(f"Before: {PROMPT} {told(lm, None)}")
        train(data, adapter, resume=asked.resume, epochs=asked.epochs, report=say, notify=print, **HOW)
        lm.load_adapter(NAME, adapter)
        print(f"After: {PROMPT} {told(lm, NAME)}")
        measure(lm, asked.held_out)
    print(f"The curve of the losses: {adapter / 'losses.svg'}")


def say(step: Step) -> None:
    """Says how the training goes, now and then."""
    if step.valid_loss is not None or step.step % 25 == 0:
        valid = "" if step.valid_loss is None else f", validation {step.valid_loss:.3f}"
        print(f"Step {step.step} of {step.steps}: loss {step.loss:.3f}{valid}, {step.seconds_left:.0f} s left")


def told(lm: elm_mlx.LanguageModel, adapter: str | None) -> str:
    """What the model says to the prompt, the likeliest token each time."""
    return lm.generate(PROMPT, 200, adapter=adapter).text.strip()


def measure(lm: elm_mlx.LanguageModel, count: int) -> None:
    """Prints bits per token of texts that nobody learned, with the adapter and without."""
    held_out = letters.letters(count, letters.HELD_OUT_FROM)
    stories = (demo_directory() / "held_out.txt").read_text(encoding="utf-8").splitlines()[:count]
    for what, texts in (("letters", [one.written for one in held_out]), ("stories", stories)):
        before, after = (bits_per_token(lm, texts, adapter) for adapter in (None, NAME))
        print(f"Bits per token of {len(texts)} {what} that it has not seen: {before:.3f} before, {after:.3f} after")
    tokens = sum(len(ids_of(lm, one.written)) - 1 for one in held_out)
    own = sum(one.bits for one in held_out) / tokens
    print(f"Bits per token of these letters in the choices of their grammar, which no model gets below: {own:.3f}")


def bits_per_token(lm: elm_mlx.LanguageModel, texts: Sequence[str], adapter: str | None) -> float:
    """Mean bits per token that the model gives texts with their ends."""
    lost, count = 0.0, 0
    for text in texts:
        ids = ids_of(lm, text)
        logits = np.array(lm.logits(ids[:-1], adapter=adapter), np.float64)  # (L, V)
        chosen = logits[np.arange(len(logits)), ids[1:]]
        lost += float((np.logaddexp.reduce(logits, axis=-1) - chosen).sum()) / math.log(2)
        count += len(chosen)
    return lost / count


def ids_of(lm: elm_mlx.LanguageModel, text: str) -> list[int]:
    """A text's ids with the one that ends it."""
    return [*lm.tokenizer.encode(text), *lm.stop_ids]


if __name__ == "__main__":
    main()
