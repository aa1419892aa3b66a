"""How a training is run, beside what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elm_mlx.train.job import Step


@dataclass(frozen=True)
class Ways:
    """Whether a training goes on from its checkpoint (`resume`) and runs where memory is short (`force`); who hears of
    its steps (`report`), and of what a person should know (`notify`)."""

    resume: bool = False
    force: bool = False
    report: Callable[[Step], None] | None = None
    notify: Callable[[str], None] | None = None
