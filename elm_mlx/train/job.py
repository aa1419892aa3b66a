"""A training on the device thread: its data read, its steps taken, validated and kept, until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers

from elm_mlx.errors import NotFinite
from elm_mlx.files import write_whole
from elm_mlx.seeds import seed_of
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.store.adapters.write import Written, write_adapter
from elm_mlx.store.load import LoadedModel
from elm_mlx.train.checkpoint import PARTS, Checkpoint, State, read_checkpoint, write_checkpoint
from elm_mlx.train.curve import curve
from elm_mlx.train.examples import Batch, Example, batch_of
from elm_mlx.train.history import History
from elm_mlx.train.loss import summed_loss
from elm_mlx.train.order import Order
from elm_mlx.train.schedule import learning_rate
from elm_mlx.train.settings import Settings
from elm_mlx.train.trainable import AdapterArrays, AdapterShape
from elm_mlx.train.training import Arrays, Training

CURVE = "losses.svg"
KEY_BITS = 32  # of the seed of MLX's random numbers that is made of the caller's


@dataclass(frozen=True)
class Step:
    """How a training goes, after a step: `loss` is the mean of this step's tokens and `valid_loss` that of the
    validation, if there was one now; in nats. `tokens_per_second` counts what was learned since the training began or
    went on, `memory` is the most bytes that MLX held, `seconds_left` is what is left at this pace."""

    step: int
    steps: int
    loss: float | None
    valid_loss: float | None
    tokens_per_second: float
    memory: int
    seconds_left: float


class Job:
    """One training of an adapter beside a loaded model, kept in the directory `output`.

    `train` and `valid` are the rows; `facts` is what a training must share with another to go on from it.
    """

    def __init__(
        self, loaded: LoadedModel, settings: Settings, train: Sequence[Example], valid: Sequence[Example], output: Path
    ) -> None:
        self.loaded, self.settings, self.train, self.valid, self.output = loaded, settings, train, valid, output
        shape = AdapterShape(settings.rank, settings.scale, settings.is_dora, settings.layers, settings.targets)
        self.adapter = AdapterArrays(loaded.model, shape)
        self.order = Order([len(one.ids) for one in train], settings.batch_size, settings.accumulate, settings.seed)
        self.steps = settings.steps or (settings.epochs or 1) * self.order.steps_an_epoch
        self.history, self.state, self.facts = History(output), State(), dict[str, Any]()
        arrays = self.adapter.begin(mx.random.key(seed_of(settings.seed, "adapter") % 2**KEY_BITS))
        self.training = Training(arrays, optimizers.Adam(settings.learning_rate), self._loss)
        self._base = Base()

    def begin(self, facts: dict[str, Any], base: Base, resume: bool) -> None:
        """Begins a training, or goes on from the checkpoint of one with the same facts; `base` is the model that the
        adapter is made for. Raises as `read_checkpoint`."""
        self.facts, self._base = facts, base
        if resume:
            found = read_checkpoint(self.output, facts)
            self.training.arrays, self.state = found.arrays, found.state
            state: dict[str, Any] = {name: dict(means) for name, means in found.means.items()}
            self.training.optimizer.state = state | {"step": mx.array(found.state.step, mx.uint64)}
        self.history.begin(self.state.step)

    def run(self, report: Callable[[Step], None]) -> str:
        """Takes the steps that are left; `report` gets a Step after each. Returns why it ended: "steps" or "patience".

        Raises NotFinite where a loss is NaN or infinite; the last checkpoint stays as it was.
        """
        begun, learned, first = time.perf_counter(), 0, self.state.step
        if not first and self.valid:
            self._record({"step": 0, "valid_loss": self.validate()})
        while self.state.step < self.steps and not self.is_out_of_patience:
            loss, targets = self.take_step()
            learned += targets
            valid = self._validate_now()
            if self.state.step % self.settings.save_every == 0:
                self.save()
            spent = time.perf_counter() - begun
            left = spent / (self.state.step - first) * (self.steps - self.state.step)
            report(Step(self.state.step, self.steps, loss, valid, learned / spent, mx.get_peak_memory(), left))
        self.save()
        return "patience" if self.is_out_of_patience else "steps"

    @property
    def is_out_of_patience(self) -> bool:
        """Whether as many validations as `patience` says were no better than the best one."""
        return self.settings.patience is not None and self.state.waited >= self.settings.patience

    def take_step(self) -> tuple[float, int]:
        """Takes the next step; returns its loss and how many targets it had. Raises NotFinite."""
        step, chosen = self.state.step, self.settings
        rate = learning_rate(chosen.schedule, chosen.learning_rate, step, self.steps, chosen.warmup)
        self.training.optimizer.learning_rate = rate  # type: ignore[attr-defined]
        batches = [batch_of([self.train[row] for row in rows]) for rows in self.order.rows(step)]
        loss = self.training.step(batches)
        if not abs(loss) < float("inf"):
            raise NotFinite(f"The loss of step {step + 1} is {loss}; the last checkpoint is as it was.",
                            "Take a smaller {learning_rate} or {scale}, or some {warmup}.")  # fmt: skip
        targets = sum(batch.targets for batch in batches)
        self.state = State(step + 1, self.state.best, self.state.waited)
        self._record({"step": step + 1, "loss": loss, "targets": targets, "learning_rate": rate})
        return loss, targets

    def validate(self) -> float:
        """The mean loss of all targets of the rows for validation."""
        self.adapter.put(self.training.arrays)
        total, rows = 0.0, sorted(self.valid, key=lambda one: len(one.ids))
        for begin in range(0, len(rows), self.settings.batch_size):
            batch = batch_of(rows[begin : begin + self.settings.batch_size])
            total += number(summed_loss(self.loaded.model, batch.ids, batch.counts))
        return total / sum(one.targets for one in rows)

    def save(self) -> None:
        """Writes the checkpoint, from which the training goes on, the picture of its losses and, where there are no
        rows for validation, the adapter: with them that of the best one is kept."""
        self.history.sync()
        if not self.valid:
            self._write_adapter()
        state = self.training.optimizer.state
        means = {name: {part: state[name][part] for part in PARTS[1:]} for name in self.training.arrays}
        write_checkpoint(self.output, Checkpoint(self.state, self.training.arrays, means, self.facts))
        write_whole(self.output / CURVE, curve(self.history.records))

    def _validate_now(self) -> float | None:
        """Validates where it is time, and keeps the adapter where it is the best so far."""
        step = self.state.step
        if not self.valid or (step % self.settings.evaluate_every and step != self.steps):
            return None
        loss = self.validate()
        self._record({"step": step, "valid_loss": loss})
        if self.state.best is None or loss < self.state.best:
            self.state = State(step, loss, 0)
            self._write_adapter()
        else:
            self.state = State(step, self.state.best, self.state.waited + 1)
        return loss

    def _write_adapter(self) -> None:
        """Writes the adapter as it is now."""
        sums = self.adapter.low_ranks(self.training.arrays)
        write_adapter(self.output, Written(sums, self._base, self.settings.scale), self.loaded.config)

    def _record(self, record: dict[str, Any]) -> None:
        self.history.add(record)

    def _loss(self, arrays: Arrays, batch: Batch) -> mx.array:
        """The sum of the losses of a batch, as a function of the arrays."""
        self.adapter.put(arrays)
        return summed_loss(self.loaded.model, batch.ids, batch.counts)


def number(array: mx.array) -> float:
    """The number in an array of one, in float32."""
    value: float = array.item()  # type: ignore[assignment]
    return value
