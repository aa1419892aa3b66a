"""From a model's name and a directory of data to a trained adapter: judged, loaded, planned, trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.api.loading import pull_directory
from elm_mlx.api.templates import Templates
from elm_mlx.arguments import named_path
from elm_mlx.config import ModelConfig
from elm_mlx.device import release
from elm_mlx.device.thread import let_go, start
from elm_mlx.errors import InvalidRequest, TargetExists, Unsupported
from elm_mlx.files import disk_errors
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.store.adapters.mlx_layout import WEIGHTS_FILE
from elm_mlx.store.fingerprint import weights_fingerprint
from elm_mlx.store.load import LoadedModel, load_directory, read_config
from elm_mlx.train.checkpoint import CHECKPOINT
from elm_mlx.train.files import TRAIN, VALID, Rows, find_data, read_rows
from elm_mlx.train.history import LOSSES
from elm_mlx.train.job import Job, Step
from elm_mlx.train.plan import Plan, check_plan, plan_training
from elm_mlx.train.rows import RowReader
from elm_mlx.train.settings import Settings
from elm_mlx.train.ways import Ways

WRITTEN = WEIGHTS_FILE, CHECKPOINT, LOSSES
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a training ended: `steps` were taken in all, the last one's `loss`, the best `valid_loss` (None: no rows for
    it), the number of trained `parameters`, the most bytes of `memory`, and why it `ended`: "steps" or "patience"."""

    output: str
    steps: int
    loss: float | None
    valid_loss: float | None
    parameters: int
    memory: int
    ended: str


def run(model: str | Path | None, data: Path, output: Path, settings: Settings, ways: Ways) -> Outcome:
    """Trains as `elm_mlx.train.train` says; what can be judged before the model is loaded is judged then."""
    named_path("data", data), named_path("output", output)
    find_data(data)
    refuse_output(output, ways.resume)
    directory = pull_directory(model, None, ways.force)
    config = read_config(directory)
    refuse_guest(config)
    check_layers(config, settings)
    name = "demo" if model is None else str(model)
    holder = object()
    thread = start(holder)
    try:
        return thread.call(lambda relay: work(
            Task(name, directory, data, output, settings, ways.resume, ways.force),
            relay(ways.report) or ignore, relay(ways.notify) or ignore,
        ))  # fmt: skip
    finally:
        let_go(holder)


def ignore(_: object) -> None:
    """Hears what nobody asked for."""


@dataclass(frozen=True)
class Task:
    """What the device thread is to do."""

    name: str
    directory: Path
    data: Path
    output: Path
    settings: Settings
    resume: bool
    force: bool


def refuse_output(output: Path, resume: bool) -> None:
    """Raises TargetExists where another training is kept in `output`, unless it is to go on."""
    there = [name for name in WRITTEN if (output / name).exists()]
    if there and not resume:
        raise TargetExists(f"{output} has {there[0]} already.", "Name another {output}, or go on with {resume=True}.")


def refuse_guest(config: ModelConfig) -> None:
    """Raises Unsupported for a model of mlx-lm's classes, which is not trained here."""
    if not config.abilities.adapters:
        raise Unsupported(f"Training is for llama and openelm, and this model is of the kind {config.model_type}. "
                          "mlx-lm's own `mlx_lm.lora` may train it.")  # fmt: skip


def check_layers(config: ModelConfig, settings: Settings) -> None:
    """Raises InvalidRequest for more layers than a model has, and for targets that none of its matrices have."""
    if settings.layers and settings.layers > config.num_blocks:
        raise InvalidRequest(f"layers is {settings.layers}, and this model has {config.num_blocks}.",
                             "Give fewer {layers}, or leave it out for all.")  # fmt: skip


# On the device thread


def work(task: Task, report: Callable[[Step], None], say: Say) -> Outcome:
    """Loads, reads the data, plans and trains."""
    mx.reset_peak_memory()
    loaded = load_directory(task.directory, force=task.force)
    try:
        return train_loaded(loaded, task, report, say)
    finally:
        release(loaded.execution)


def train_loaded(loaded: LoadedModel, task: Task, report: Callable[[Step], None], say: Say) -> Outcome:
    """Trains beside a model that is loaded."""
    settings = task.settings
    length = min(settings.max_length, loaded.config.context_length)
    train, valid = read_data(loaded, task, length, say)
    job = Job(loaded, settings, train.examples, valid.examples, task.output)
    if not job.adapter.places:
        raise InvalidRequest(f"No matrix of this model ends in one of {', '.join(settings.targets or ())}.",
                             "Give other {targets}, as q_proj, or leave them out for all.")  # fmt: skip
    plan = plan_of(job, loaded)
    check_plan(plan, task.force)
    say(f"Memory: about {plan}.")
    weights = weights_fingerprint(task.directory)
    facts = settings.fixed() | {"data": train.digest, "valid": valid.digest, "base_weights": weights}
    if settings.schedule != "constant":
        facts["all_steps"] = job.steps  # the rates of a schedule depend on it
    with disk_errors(f"{task.output} cannot be made"):
        task.output.mkdir(parents=True, exist_ok=True)
    job.begin(facts, Base(task.name, weights), task.resume)
    ended = job.run(report)
    losses = [one["loss"] for one in job.history.records if "loss" in one]
    parameters = sum(array.size for array in job.training.arrays.values())
    return Outcome(str(task.output), job.state.step, losses[-1] if losses else None, job.state.best, parameters,
                   mx.get_peak_memory(), ended)  # fmt: skip


def read_data(loaded: LoadedModel, task: Task, length: int, say: Say) -> tuple[Rows, Rows]:
    """The rows of train.jsonl, and of valid.jsonl where there is one; says what of them is not learned."""
    reader = RowReader(loaded.tokenizer, Templates(loaded.directory, loaded.settings, loaded.tokenizer),
                       end_of(loaded), task.settings.mask_prompt, task.settings.last_turn_only)  # fmt: skip
    train, valid = read_rows(task.data / TRAIN, reader, length), Rows()
    if (task.data / VALID).exists():
        valid = read_rows(task.data / VALID, reader, length)
    for name, rows in ((TRAIN, train), (VALID, valid)):
        if notice := rows.notice(name, length):
            say(notice)
    return train, valid


def end_of(loaded: LoadedModel) -> int | None:
    """The id that ends a text: the tokenizer's EOS, else the least of those that stop the model."""
    own = loaded.tokenizer.eos_token_id
    return own if own is not None else min(loaded.stop_ids, default=None)


def plan_of(job: Job, loaded: LoadedModel) -> Plan:
    """What a training will take, from its largest batch."""
    longest = max(len(one.ids) for one in (*job.train, *job.valid)) - 1
    rows: Any = min(job.settings.batch_size, max(len(job.train), len(job.valid)))
    return plan_training(loaded.config, mx.get_active_memory(), job.training.arrays, rows, longest)
