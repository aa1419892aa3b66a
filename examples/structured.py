"""Gets answers as dataclasses: the form is enforced token by token. Needs the extra `structure`.

python examples/structured.py [MODEL]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

import elm_mlx


@dataclass
class Animal:
    """What an answer is to be."""

    kind: Literal["bear", "cat", "fox", "owl"]
    colour: Literal["black", "brown", "red", "white"]
    is_brave: bool
    legs: Literal[2, 4]


def main(model: str | None = None) -> None:
    with elm_mlx.load(model) as lm:  # the demo only tells stories; what it says of an animal means little
        for seed in range(3):
            done = lm.generate("In the forest lived", 100, schema=Animal, temperature=1.0, seed=seed)
            animal: Animal = done.parsed
            print(f"A {animal.colour} {animal.kind} with {animal.legs} legs, from {done.text}")
        print("Was it good?", lm.generate("Was it good?", choices=["yes", "no"]).parsed)


if __name__ == "__main__":
    main(*sys.argv[1:])
