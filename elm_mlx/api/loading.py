"""From a name or a directory to a LanguageModel: fetched where it must be, loaded and tried on the device thread."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from elm_mlx.api.cache_plan import plan_budget, workers_of
from elm_mlx.api.defaults import read_defaults
from elm_mlx.api.drafts import Pair, find_draft, speculation_of
from elm_mlx.api.language_model import LanguageModel
from elm_mlx.api.own_caches import held_by, rows_of, token_bytes, usual_bytes
from elm_mlx.arguments import Progress, whole_number
from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import check_bits
from elm_mlx.demo import demo_directory
from elm_mlx.device import check_policy
from elm_mlx.device.memory import CacheWish
from elm_mlx.device.thread import DeviceThread, let_go, refuse_fork, start
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.limits import QUEUE, ROWS, Limits
from elm_mlx.engine.warm_up import warm_up
from elm_mlx.engine.worker import Order, Worker, closed
from elm_mlx.errors import InvalidRequest
from elm_mlx.library.pull import pull
from elm_mlx.store.load import LoadedModel, load_directory

UNLIMITED = sys.maxsize  # requests that the engine lets wait: the Worker counts them, in the thread that asks


def load(
    model: str | Path | None = None,
    bits: int | None = None,
    cpu_policy: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
    *,
    cache_bytes: int | None = None,
    rows: int = ROWS,
    queue: int = QUEUE,
    context: int | None = None,
    draft: str | Path | None = None,
) -> LanguageModel:
    """Loads a model: a name that `elm-mlx list` shows, owner/name[@revision] of a repository, or the directory of a
    converted model or of a Hugging Face one with safetensors and a tokenizer.json.

    A model that is not on this machine is pulled as `pull` does, in `bits` if given. No model means the built-in demo.
    `cpu_policy` "plain" computes in the stored type on the CPU backend too, and "compiled" in compiled steps, as on a
    GPU, if there is a compiler. `progress` is called with (bytes loaded, in all).

    Up to `rows` requests are answered together and up to `queue` more may wait. The keys and values of all of them, and
    what is kept for later requests, take up to `cache_bytes`; by default what this machine has left for them. All
    loaded models share these bytes; where several loads named a number, the least counts. A prompt and its answer have
    up to `context` tokens together; by default, and at most, as many as the model was made for.

    `draft` is a smaller model with the same vocabulary, named as `model` is, that proposes ids while one request runs
    alone: answers stay the same, and may come faster. "auto" takes the one that suits the model, if it is on this
    machine; otherwise a notice says which one that would be. Caches of both count as those of a request.

    The first model of a process starts the thread that computes, and any thread may load. Raises InvalidRequest, also
    for a draft with another vocabulary, NotFound, MissingTokenizer, BadCheckpoint, Unsupported, and NotEnoughMemory for
    a model that this machine has no room for, unless `force`; where it is pulled Gated, Unreachable and DiskFull, too;
    Forked in a process that was forked from one with a model.
    """
    check_bits(bits)
    check_policy(cpu_policy)
    for name, number in (("cache_bytes", cache_bytes), ("rows", rows), ("queue", queue), ("context", context)):
        if number is not None and whole_number(name, number) < 1:
            raise InvalidRequest(f"{name} is {number}; it must be above 0.")
    refuse_fork()
    directory = pull_directory(model, bits, force)
    found = find_draft(draft, directory, force=force)
    holder = object()
    thread = start(holder)
    opened: list[Worker] = []
    try:
        loaded = thread.call(lambda relay: load_and_try(directory, cpu_policy, relay(progress), force))
        loaded = replace(loaded, config=in_context(loaded.config, context))
        path, rows = found.path, rows_of(loaded, rows)
        second = thread.call(lambda _: load_and_try(path, cpu_policy, None, force)) if path else None
        thread.call(lambda _: opened.append(open_engine(thread, Pair(loaded, second), cache_bytes, rows, queue)))
        notices = (*loaded.notices, *([found.notice] if found.notice else []))
        return LanguageModel(replace(loaded, notices=notices), opened[0], holder, rows, found.path)
    except BaseException:
        # Where the wait was interrupted (Ctrl-C), the device thread may open the engine all the same; this comes after.
        thread.post_from_finalizer(Order(lambda: shut_all(opened)))
        let_go(holder)
        raise


def pull_directory(model: str | Path | None, bits: int | None, force: bool) -> Path:
    """The directory of a model, which is pulled where it is not on this machine. No model means the built-in demo."""
    if model is None:
        if bits:
            raise InvalidRequest("The built-in demo has 8 bits. Name a model, or leave bits out.")
        return demo_directory()
    return pull(model, bits, force=force).path


def in_context(config: ModelConfig, context: int | None) -> ModelConfig:
    """A configuration whose context has at most so many tokens, if a number is given."""
    return config if context is None else replace(config, context_length=min(context, config.context_length))


# On the device thread


def load_and_try(directory: Path, cpu_policy: str, progress: Progress | None, force: bool) -> LoadedModel:
    """Loads a model's directory, finds out whether its compiled step runs, and how its answers are sampled."""
    loaded = load_directory(directory, cpu_policy, progress, force)
    execution = warm_up(loaded.runs, loaded.config.num_layers, loaded.execution)
    return replace(loaded, execution=execution, sampling=read_defaults(directory).sampling)


def open_engine(thread: DeviceThread, pair: Pair, cache_bytes: int | None, rows: int, queue: int) -> Worker:
    """Makes the engine of a loaded model, within the memory that is left for caches, and gives it its turns."""
    loaded, config = pair.target, pair.target.config
    float_bits = 8 * loaded.runs.dtype.size
    usual = sum(usual_bytes(one) for one in pair if one)
    others, wish = workers_of(thread), CacheWish(usual, cache_bytes)
    budget = others[0].engine.limits.budget if others else Budget(0)  # one for all models of the process
    plan_budget(budget, [*(other.wish for other in others), wish])
    limits = Limits(
        config.context_length, token_bytes(loaded), budget, rows, UNLIMITED,
        head_dim=config.head_dim, float_bits=float_bits, held=held_by(loaded),
    )  # fmt: skip
    speculation = speculation_of(pair)
    speculation.measure()
    engine = Engine(loaded.runs, config.num_layers, limits, loaded.execution, speculation)
    worker = Worker(thread, engine, rows + queue, wish)
    thread.turns.append(worker)
    return worker


def shut_all(workers: list[Worker]) -> None:
    """Gives back what was opened for a caller that waits no longer."""
    for worker in workers:
        worker.shut(closed())
