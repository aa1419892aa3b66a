"""From a model's name and a directory of data to a trained adapter: judged, loaded, planned, trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from elm_mlx.api.loading import pull_directory
from elm_mlx.arguments import named_path
from elm_mlx.config import ModelConfig
from elm_mlx.device import choose_execution, release
from elm_mlx.device.execution import Execution
from elm_mlx.device.thread import let_go, start
from elm_mlx.errors import InvalidRequest, TargetExists, Unsupported
from elm_mlx.files import check_room, disk_errors
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.store.adapters.mlx_layout import WEIGHTS_FILE
from elm_mlx.store.fingerprint import weights_fingerprint
from elm_mlx.store.load import load_model, read_config
from elm_mlx.train.checkpoint import CHECKPOINT, PARTS
from elm_mlx.train.data import Data, find_reference, objective_of, read_data
from elm_mlx.train.dpo import PairObjective
from elm_mlx.train.files import find_data
from elm_mlx.train.full import CONFIG, WEIGHTS, FullArrays
from elm_mlx.train.history import LOSSES
from elm_mlx.train.job import Job, Step
from elm_mlx.train.plan import FLOAT, Load, check_plan, plan_training
from elm_mlx.train.recompute import Recomputed
from elm_mlx.train.reference import REFERENCE
from elm_mlx.train.settings import Settings
from elm_mlx.train.student import Student, read_student
from elm_mlx.train.trainable import AdapterArrays
from elm_mlx.train.trained import Trained
from elm_mlx.train.ways import Ways

WRITTEN = WEIGHTS_FILE, CHECKPOINT, LOSSES, REFERENCE, WEIGHTS, CONFIG
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
    if settings.is_full:
        refuse_quantized(config)
    name = "demo" if model is None else str(model)
    holder = object()
    thread = start(holder)
    try:
        return thread.call(lambda relay: work(
            Task(name, directory, data, output, settings, ways),
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
    ways: Ways


def refuse_output(output: Path, resume: bool) -> None:
    """Raises TargetExists where another training is kept in `output`, or a model, unless it is to go on."""
    there = [name for name in WRITTEN if (output / name).exists()]
    if there and not resume:
        raise TargetExists(f"{output} has {there[0]} already.", "Name another {output}, or go on with {resume=True}.")


def refuse_guest(config: ModelConfig) -> None:
    """Raises Unsupported for a model of mlx-lm's classes, which is not trained here."""
    if not config.abilities.adapters:
        raise Unsupported(f"Training is for llama and openelm, and this model is of the kind {config.model_type}. "
                          "mlx-lm's own `mlx_lm.lora` may train it.")  # fmt: skip


def check_layers(config: ModelConfig, settings: Settings) -> None:
    """Raises InvalidRequest for more layers than a model has."""
    if settings.layers and settings.layers > config.num_blocks:
        raise InvalidRequest(f"layers is {settings.layers}, and this model has {config.num_blocks}.",
                             "Give fewer {layers}, or leave it out for all.")  # fmt: skip


def refuse_quantized(config: ModelConfig) -> None:
    """Raises Unsupported for a quantized model, which kind full cannot train: small steps would change no bit of it."""
    if config.quantization is not None:
        raise Unsupported("kind full trains a model's floats, and this model is quantized.",
                          "Take {kind=lora} or {kind=dora}, or name the float model that it was made of.")  # fmt: skip


# On the device thread


def work(task: Task, report: Callable[[Step], None], say: Say) -> Outcome:
    """Reads the data, loads, plans and trains."""
    mx.reset_peak_memory()
    student = read_student(task.directory, task.settings.chat_template)
    rows = read_data(student, task.data, task.settings, say)
    execution = choose_execution(student.config, "auto")
    try:
        return train_student(student, execution, task, rows, report, say)
    finally:
        release(execution)


def train_student(
    student: Student, execution: Execution, task: Task, rows: Data, report: Callable[[Step], None], say: Say
) -> Outcome:
    """Trains a model of which all but the weights is read."""
    settings = task.settings
    trained = what_is_trained(student, execution, task)
    held = trained.held()
    train, valid = objective_of(rows.train, settings), objective_of(rows.valid, settings)
    job = Job(trained, settings, train, valid if rows.valid.examples else None, task.output)
    plan = plan_training(student.config, held, job.training.arrays, load_of(job))
    check_plan(plan, 0 if settings.is_full else held, task.ways.force)
    check_disk(job)
    say(f"Memory: about {plan}.")
    weights = weights_fingerprint(task.directory)
    facts = settings.fixed() | {"data": rows.train.digest, "valid": rows.valid.digest, "base_weights": weights}
    if settings.schedule != "constant":
        facts["all_steps"] = job.steps  # the rates of a schedule depend on it
    with disk_errors(f"{task.output} cannot be made"):
        task.output.mkdir(parents=True, exist_ok=True)
    begun = job.training.arrays
    job.begin(facts, Base(task.name, weights), goes_on(task, say))
    if isinstance(train, PairObjective) and isinstance(valid, PairObjective):
        find_reference(job, begun, train, valid, say)
    del begun  # they may be all of a model
    ended = job.run(report)
    losses = [one["loss"] for one in job.history.records if "loss" in one]
    parameters = sum(array.size for array in job.training.arrays.values())
    return Outcome(str(task.output), job.state.step, losses[-1] if losses else None, job.state.best, parameters,
                   mx.get_peak_memory(), ended)  # fmt: skip


def check_disk(job: Job) -> None:
    """Raises DiskFull where there is no room for a checkpoint beside the one that it replaces."""
    count = sum(array.size for array in job.training.arrays.values())
    needed = 2 * len(PARTS) * FLOAT * count
    check_room("The checkpoint of this training", "Free some space, or name another {output}.", (job.output, needed))


def goes_on(task: Task, say: Say) -> bool:
    """Whether a training goes on from a checkpoint. One that was stopped before its first one begins anew."""
    if task.ways.resume and (task.output / LOSSES).exists() and not (task.output / CHECKPOINT).exists():
        say(f"{task.output} has no checkpoint yet, so the training begins anew.")
        return False
    return task.ways.resume


def what_is_trained(student: Student, execution: Execution, task: Task) -> Trained:
    """The arrays that are trained: the model's own, or those of an adapter beside it."""
    trained = own_arrays if task.settings.is_full else adapter_arrays
    found = trained(student, execution, task)
    return Recomputed(found) if task.settings.checkpoint_gradients else found


def own_arrays(student: Student, execution: Execution, task: Task) -> Trained:
    """The model's own arrays. The model that is written gets the chat template that was given."""
    given = student.templates.given
    template = given.source if given else None
    return FullArrays(student.directory, student.config, execution.dtype, task.settings.layers, template)


def adapter_arrays(student: Student, execution: Execution, task: Task) -> Trained:
    """The arrays of an adapter beside the model, which is loaded. Raises InvalidRequest where no matrix is a target."""
    model = load_model(student.directory, student.config, execution, None, task.ways.force)
    trained = AdapterArrays(model, task.settings.adapter)
    if not trained.places:
        raise InvalidRequest(f"No matrix of this model ends in one of {', '.join(task.settings.targets or ())}.",
                             "Give other {targets}, as q_proj, or leave them out for all.")  # fmt: skip
    return trained


def load_of(job: Job) -> Load:
    """What a training learns at once, at most."""
    both = [job.train, *([job.valid] if job.valid else [])]
    longest = max(max(one.lengths) for one in both) - 1
    rows = min(job.settings.batch_size, max(len(one.lengths) for one in both)) * job.train.ROWS
    return Load(rows, longest, job.settings.checkpoint_gradients)
