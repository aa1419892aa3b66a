"""What a training is asked to do, judged before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from elm_mlx.arguments import real_number, whole_number
from elm_mlx.errors import InvalidRequest
from elm_mlx.train.names import BETA, CONSTANT, DORA, DPO, FULL, KINDS, LOSSES, RANK, SCALE, SCHEDULES, TOKENS
from elm_mlx.train.trainable import AdapterShape

MOST_RANK = 4096  # as wide as the matrices of the largest models that are tuned here
# No array at a step depends on these alone; what a chat template writes is known by the data's digest.
FREE = ("steps", "epochs", "evaluate_every", "save_every", "patience", "chat_template")


@dataclass(frozen=True)
class Settings:
    """What `train` is asked, beside model, data and output; `train` says what each means."""

    kind: str = "lora"
    rank: int | None = None
    scale: float | None = None
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
    loss: str = TOKENS
    beta: float | None = None
    checkpoint_gradients: bool = False
    chat_template: str | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRequest for what has no meaning, and for options that would change nothing."""
        for name, known in (("kind", KINDS), ("schedule", SCHEDULES), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                raise InvalidRequest(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}.")
        for name in ("batch_size", "steps", "epochs", "accumulate", "patience", "evaluate_every", "save_every",
                     "rank", "layers"):  # fmt: skip
            check_whole(name, getattr(self, name), 1)
        check_whole("max_length", self.max_length, 2)
        check_whole("warmup", self.warmup, 0)
        check_whole("seed", self.seed, 0)
        if (self.rank or 0) > MOST_RANK:
            raise InvalidRequest(f"rank is {self.rank:,}; it must be at most {MOST_RANK:,}.")
        for name in ("scale", "learning_rate", "beta"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.steps is not None and self.epochs is not None:
            raise InvalidRequest("How long to train is given twice.", "Give {steps} or {epochs}, not both.")
        refuse_without_effect(self)

    @property
    def is_full(self) -> bool:
        """Whether the model's own arrays are trained."""
        return self.kind == FULL

    @property
    def is_dpo(self) -> bool:
        """Whether pairs of answers are learned."""
        return self.loss == DPO

    @property
    def used_beta(self) -> float:
        """How much a pair's log-probabilities count against the reference's."""
        return BETA if self.beta is None else self.beta

    @property
    def adapter(self) -> AdapterShape:
        """How the adapter is laid out, where one is trained."""
        rank, scale = self.rank or RANK, SCALE if self.scale is None else self.scale
        return AdapterShape(rank, scale, self.kind == DORA, self.layers, self.targets)

    def fixed(self) -> dict[str, Any]:
        """The settings that a resumed training shares with the one that it goes on from."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}


def refuse_without_effect(settings: Settings) -> None:
    """Raises InvalidRequest for an option that belongs to another kind or loss."""
    if settings.is_full:
        for name in ("rank", "scale", "targets"):
            if getattr(settings, name) is not None:
                raise InvalidRequest(f"{name} belongs to adapters, and kind full trains the model's own arrays.",
                                     f"Leave {{{name}}} out, or take {{kind=lora}} or {{kind=dora}}.")  # fmt: skip
    if settings.beta is not None and not settings.is_dpo:
        raise InvalidRequest("beta belongs to the loss of pairs (dpo).", "Leave {beta} out, or take {loss=dpo}.")


def check_whole(name: str, value: object, least: int) -> None:
    """Raises InvalidRequest for anything but None and a whole number of `least` or more."""
    if value is not None and whole_number(name, value) < least:
        raise InvalidRequest(f"{name} is {value}; it must be at least {least}.")


def check_positive(name: str, value: Any) -> None:
    """Raises InvalidRequest for anything but a finite number above 0."""
    check: Callable[[str, Any], Any] = real_number
    if not (math.isfinite(check(name, value)) and value > 0):
        raise InvalidRequest(f"{name} is {value}; it must be a finite number above 0.")
