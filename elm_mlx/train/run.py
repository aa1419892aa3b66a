"""From a model's name and a directory of data to a trained adapter: judged, loaded, planned, trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.api.loading import pull_directory
from elm_mlx.arguments import named_path
from elm_mlx.config import ModelConfig
from elm_mlx.device import choose_execution, release
from elm_mlx.device.execution import Execution
from elm_mlx.device.thread import let_go, start
from elm_mlx.errors import InvalidRequest, Unsupported
from elm_mlx.files import check_room
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.store.fingerprint import weights_fingerprint
from elm_mlx.store.load import load_model, read_config
from elm_mlx.train.checkpoint import CHECKPOINT, PARTS
from elm_mlx.train.data import Data, find_reference, objective_of, read_data
from elm_mlx.train.dpo import PairObjective
from elm_mlx.train.files import find_data
from elm_mlx.train.full import WEIGHTS, FullArrays
from elm_mlx.train.history import LOSSES
from elm_mlx.train.job import Job, Step
from elm_mlx.train.output import check_output, lock_output
from elm_mlx.train.plan import FLOAT, Load, check_plan, plan_training
from elm_mlx.train.recompute import Recomputed
from elm_mlx.train.settings import Settings
from elm_mlx.train.student import Student, read_student
from elm_mlx.train.trainable import AdapterArrays
from elm_mlx.train.trained import Trained
from elm_mlx.train.ways import Ways

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
    check_output(output, ways.resume)
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
        trained = what_is_trained(student, execution, task)
        job = plan_job(student, trained, task, rows, say)
        with lock_output(task.output):
            begin(job, task, facts_of(job, task, rows), say)
            return outcome_of(job, job.run(report))
    finally:
        release(execution)


def plan_job(student: Student, trained: Trained, task: Task, rows: Data, say: Say) -> Job:
    """The training, for which there is memory and disk."""
    settings, held = task.settings, trained.held()
    valid = objective_of(rows.valid, settings) if rows.valid.examples else None
    job = Job(trained, settings, objective_of(rows.train, settings), valid, task.output)
    plan = plan_training(student.config, held, job.training.arrays, load_of(job))
    check_plan(plan, 0 if settings.is_full else held, task.ways.force)
    check_disk(job, task)
    say(f"Memory: about {plan}.")
    return job


def facts_of(job: Job, task: Task, rows: Data) -> dict[str, Any]:
    """What a training must share with one that it goes on from."""
    facts = task.settings.fixed() | {"data": rows.train.digest, "valid": rows.valid.digest}
    facts["base_weights"] = weights_fingerprint(task.directory)
    if task.settings.schedule != "constant":
        facts["all_steps"] = job.steps  # the rates of a schedule depend on it
    return facts


def begin(job: Job, task: Task, facts: dict[str, Any], say: Say) -> None:
    """Begins a training or goes on with it, in its directory. Pairs get what the model makes of them now."""
    begun = job.training.arrays
    job.begin(facts, Base(task.name, facts["base_weights"]), goes_on(task, say))
    if isinstance(job.train, PairObjective):
        find_reference(job, begun, say)


def outcome_of(job: Job, ended: str) -> Outcome:
    """What a training came to."""
    losses = [one["loss"] for one in job.history.records if "loss" in one]
    parameters = sum(array.size for array in job.training.arrays.values())
    return Outcome(str(job.output), job.state.step, losses[-1] if losses else None, job.state.best, parameters,
                   mx.get_peak_memory(), ended)  # fmt: skip


def check_disk(job: Job, task: Task) -> None:
    """Raises DiskFull where there is no room for a checkpoint beside the one that it replaces, and of kind full for
    two models."""
    checkpoint = len(PARTS) * FLOAT * sum(array.size for array in job.training.arrays.values())
    model = sum(map(size_of, task.directory.glob("*.safetensors"))) if task.settings.is_full else 0
    needed = 2 * (checkpoint + model) - size_of(job.output / CHECKPOINT) - size_of(job.output / WEIGHTS)
    check_room("What this training writes", "Free some space, or name another {output}.", (job.output, needed))


def size_of(file: Path) -> int:
    """How many bytes a file has; 0 where there is none."""
    return file.stat().st_size if file.is_file() else 0


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
                             "Give other {targets}, such as q_proj, or leave them out for all.")  # fmt: skip
    return trained


def load_of(job: Job) -> Load:
    """What a training learns at once, at most."""
    both = [job.train, *([job.valid] if job.valid else [])]
    longest = max(max(one.lengths) for one in both) - 1
    rows = min(job.settings.batch_size, max(len(one.lengths) for one in both)) * job.train.ROWS
    settings = job.settings
    return Load(rows, longest, settings.checkpoint_gradients, settings.layers, settings.adapter.dora)
