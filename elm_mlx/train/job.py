"""A training on the device thread: its data read, its steps taken, validated and kept, until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers

from elm_mlx.errors import NotFinite
from elm_mlx.files import write_whole
from elm_mlx.seeds import seed_of
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.train.checkpoint import PARTS, Checkpoint, State, read_checkpoint, write_checkpoint
from elm_mlx.train.curve import curve
from elm_mlx.train.history import History
from elm_mlx.train.objective import Objective
from elm_mlx.train.order import Order
from elm_mlx.train.schedule import learning_rate
from elm_mlx.train.settings import Settings
from elm_mlx.train.trained import Trained
from elm_mlx.train.training import Arrays, Targets, Training, number

CURVE = "losses.svg"
SMALLER_STEPS = "Take a smaller {learning_rate}, or some {warmup}."
KEY_BITS = 32  # of the seed of MLX's random numbers that is made of the caller's


@dataclass(frozen=True)
class Step:
    """How a training goes, after a step: `loss` is the mean of this step's targets and `valid_loss` that of the
    validation, if there was one now; in nats. `tokens_per_second` counts what was learned since the training began or
    went on, `memory` is the most bytes that MLX held, `seconds_left` is what is left at this pace. Where pairs are
    learned, `accuracy` is the share of this step's pairs whose better answer gained more, and `margin` by how much;
    `valid_accuracy` and `valid_margin` are those of the validation."""

    step: int
    steps: int
    loss: float | None
    valid_loss: float | None
    tokens_per_second: float
    memory: int
    seconds_left: float
    accuracy: float | None = None
    margin: float | None = None
    valid_accuracy: float | None = None
    valid_margin: float | None = None


class Job:
    """One training, kept in the directory `output`: `trained` is what changes, `train` what is learned, and `valid`
    what is validated (None: nothing)."""

    def __init__(
        self, trained: Trained, settings: Settings, train: Objective, valid: Objective | None, output: Path
    ) -> None:
        self.trained, self.settings, self.train, self.valid, self.output = trained, settings, train, valid, output
        self.order = Order(train.lengths, settings.batch_size, settings.accumulate, settings.seed)
        self.steps = settings.steps or (settings.epochs or 1) * self.order.steps_an_epoch
        self.history, self.state, self.facts = History(output), State(), dict[str, Any]()
        arrays = trained.begin(mx.random.key(seed_of(settings.seed, "adapter") % 2**KEY_BITS))
        self.training = Training(arrays, optimizers.Adam(settings.learning_rate), self._sums)
        self._base = Base()

    def begin(self, facts: dict[str, Any], base: Base, resume: bool) -> None:
        """Begins a training, or goes on from the checkpoint of one with the same facts; `base` is the model that is
        trained, or that an adapter is made for. Raises as `read_checkpoint`."""
        self.facts, self._base = facts, base
        if resume:
            found = read_checkpoint(self.output, facts)
            self.training.arrays, self.state = found.arrays, found.state
            state: dict[str, Any] = {name: dict(means) for name, means in found.means.items()}
            self.training.optimizer.state = state | {"step": mx.array(found.state.step, mx.uint64)}
        self.history.begin(self.state.step)

    def run(self, report: Callable[[Step], None]) -> str:
        """Takes the steps that are left; `report` gets a Step after each. Returns why it ended: "steps" or "patience".

        Raises NotFinite where a loss or a trained number is NaN or infinite; the last checkpoint stays as it was.
        """
        begun, learned, first = time.perf_counter(), 0, self.state.step
        if not first and self.valid:
            self.history.add({"step": 0} | self.validate(self.valid))
        while self.state.step < self.steps and not self.is_out_of_patience:
            told, tokens = self.take_step()
            learned += tokens
            told |= self._validate_now()
            if self.state.step % self.settings.save_every == 0:
                self.save()
            spent = time.perf_counter() - begun
            left = spent / (self.state.step - first) * (self.steps - self.state.step)
            pace = {"tokens_per_second": learned / spent, "memory": mx.get_peak_memory(), "seconds_left": left}
            report(Step(**{"step": self.state.step, "steps": self.steps, "valid_loss": None} | told | pace))
        self.save()
        return "patience" if self.is_out_of_patience else "steps"

    @property
    def is_out_of_patience(self) -> bool:
        """Whether as many validations as `patience` says were no better than the best one."""
        return self.settings.patience is not None and self.state.waited >= self.settings.patience

    def take_step(self) -> tuple[dict[str, Any], int]:
        """Takes the next step; returns its loss and what else is told, and how many tokens it learned. Raises
        NotFinite."""
        step, chosen = self.state.step, self.settings
        rate = learning_rate(chosen.schedule, chosen.learning_rate, step, self.steps, chosen.warmup)
        self.training.optimizer.learning_rate = rate  # type: ignore[attr-defined]
        rows = self.order.rows(step)
        batches = [self.train.batch(one) for one in rows]
        loss, *more = self.training.learn(batches)
        check_loss(f"The loss of step {step + 1}", loss)
        told = {"loss": loss} | dict(zip(self.train.TELLS, more, strict=True))
        self.state = State(step + 1, self.state.best, self.state.waited)
        targets = sum(batch.targets for batch in batches)
        self.history.add({"step": step + 1, "loss": loss, "targets": targets, "learning_rate": rate} | told)
        return told, sum(map(self.train.tokens, rows))

    def validate(self, valid: Objective) -> dict[str, float]:
        """The mean loss of all targets of the rows for validation, and what else is told, by their names. Raises
        NotFinite."""
        model = self.trained.with_arrays(self.training.arrays)
        order, size = sorted(range(len(valid.lengths)), key=valid.lengths.__getitem__), self.settings.batch_size
        names = ["valid_loss", *(f"valid_{name}" for name in valid.TELLS)]
        sums, targets = dict.fromkeys(names, 0.0), 0
        for begin in range(0, len(order), size):
            batch: Targets = valid.batch(order[begin : begin + size])
            targets += batch.targets
            for name, one in zip(names, valid.sums(model, batch), strict=True):
                sums[name] += number(one)
        check_loss(f"The validation loss after step {self.state.step}", sums["valid_loss"])
        return {name: one / targets for name, one in sums.items()}

    def save(self) -> None:
        """Writes the checkpoint, from which the training goes on, the picture of its losses and, where there are no
        rows for validation, what was trained: with them that of the best one is kept. Raises NotFinite, and then
        writes nothing."""
        check_arrays(self.training.arrays, self.state.step)
        self.history.sync()
        if not self.valid:
            self._write()
        state = self.training.optimizer.state
        means = {name: {part: state[name][part] for part in PARTS[1:]} for name in self.training.arrays}
        write_checkpoint(self.output, Checkpoint(self.state, self.training.arrays, means, self.facts))
        write_whole(self.output / CURVE, curve(self.history.records))

    def _validate_now(self) -> dict[str, float]:
        """Validates where it is time, and keeps what was trained where it is the best so far; returns what is told."""
        step = self.state.step
        if not self.valid or (step % self.settings.evaluate_every and step != self.steps):
            return {}
        told = self.validate(self.valid)
        loss = told["valid_loss"]
        self.history.add({"step": step} | told)
        if self.state.best is None or loss < self.state.best:
            self.state = State(step, loss, 0)
            self._write()
        else:
            self.state = State(step, self.state.best, self.state.waited + 1)
        return told

    def _write(self) -> None:
        """Writes what was trained as it is now."""
        self.trained.write(self.output, self.training.arrays, self._base)

    def _sums(self, arrays: Arrays, batch: Targets) -> tuple[mx.array, ...]:
        """The sums of a batch, as a function of the arrays."""
        return self.train.sums(self.trained.with_arrays(arrays), batch)


def check_loss(which: str, loss: float) -> None:
    """Raises NotFinite for a loss that is NaN or infinite."""
    if not abs(loss) < float("inf"):
        raise NotFinite(f"{which} is {loss}; the last checkpoint is as it was.", SMALLER_STEPS)


def check_arrays(arrays: Arrays, step: int) -> None:
    """Raises NotFinite where a step has made numbers NaN or infinite: its own loss was computed before it, and from a
    checkpoint with such numbers nothing could go on."""
    for name, array in arrays.items():
        if not mx.isfinite(array).all().item():
            raise NotFinite(f"{name} has numbers that are NaN or infinite after step {step}; the last checkpoint is as "
                            "it was.", SMALLER_STEPS)  # fmt: skip
