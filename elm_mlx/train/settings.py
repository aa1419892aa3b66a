"""What a training is asked to do, judged before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from elm_mlx.arguments import real_number, whole_number
from elm_mlx.errors import InvalidRequest, Unsupported
from elm_mlx.train.names import CONSTANT, DORA, FULL, KINDS, LOSSES, SCHEDULES

MOST_RANK = 4096  # as wide as the matrices of the largest models that are tuned here
FREE = ("steps", "epochs", "evaluate_every", "save_every", "patience")  # no array at a step depends on these alone


@dataclass(frozen=True)
class Settings:
    """What `train` is asked, beside model, data and output; `train` says what each means."""

    kind: str = "lora"
    rank: int = 8
    scale: float = 20.0
    layers: int | None = None
    targets: tuple[str, ...] | None = None
    batch_size: int = 4
    steps: int | None = None
    epochs: int | None = None
    learning_rate: float = 1e-4
    schedule: str = CONSTANT
    warmup: int = 0
    max_length: int = 2048
    mask_prompt: bool = False
    last_turn_only: bool = False
    accumulate: int = 1
    evaluate_every: int = 100
    patience: int | None = None
    save_every: int = 100
    seed: int = 0
    loss: str = LOSSES[0]

    def __post_init__(self) -> None:
        """Raises InvalidRequest for what has no meaning, and Unsupported for what elm-mlx does not do yet."""
        refuse_missing(self)
        for name, known in (("kind", KINDS), ("schedule", SCHEDULES), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                raise InvalidRequest(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}.")
        for name in ("batch_size", "steps", "epochs", "accumulate", "patience", "evaluate_every", "save_every",
                     "rank", "layers"):  # fmt: skip
            check_whole(name, getattr(self, name), 1)
        check_whole("max_length", self.max_length, 2)
        check_whole("warmup", self.warmup, 0)
        check_whole("seed", self.seed, 0)
        if self.rank > MOST_RANK:
            raise InvalidRequest(f"rank is {self.rank:,}; it must be at most {MOST_RANK:,}.")
        for name in ("scale", "learning_rate"):
            check_positive(name, getattr(self, name))
        if self.steps is not None and self.epochs is not None:
            raise InvalidRequest("How long to train is given twice.", "Give {steps} or {epochs}, not both.")

    @property
    def is_dora(self) -> bool:
        """Whether rows get learned lengths."""
        return self.kind == DORA

    def fixed(self) -> dict[str, Any]:
        """The settings that a resumed training shares with the one that it goes on from."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}


def refuse_missing(settings: Settings) -> None:
    """Raises Unsupported for what is asked for and not there yet."""
    if settings.kind == FULL:
        raise Unsupported("elm-mlx does not train all weights of a model yet.", "Take {kind=lora} or {kind=dora}.")
    if settings.loss == "dpo":
        raise Unsupported("elm-mlx does not learn from pairs of answers (dpo) yet.", "Leave {loss} out.")


def check_whole(name: str, value: object, least: int) -> None:
    """Raises InvalidRequest for anything but None and a whole number of `least` or more."""
    if value is not None and whole_number(name, value) < least:
        raise InvalidRequest(f"{name} is {value}; it must be at least {least}.")


def check_positive(name: str, value: Any) -> None:
    """Raises InvalidRequest for anything but a finite number above 0."""
    check: Callable[[str, Any], Any] = real_number
    if not (math.isfinite(check(name, value)) and value > 0):
        raise InvalidRequest(f"{name} is {value}; it must be a finite number above 0.")
