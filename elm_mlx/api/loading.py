"""From a name or a directory to a LanguageModel: fetched where it must be, loaded and tried on the device thread."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from elm_mlx.api.cache_plan import plan_budget, workers_of
from elm_mlx.api.defaults import read_defaults
from elm_mlx.api.drafts import Pair, find_draft, speculation_of
from elm_mlx.api.language_model import LanguageModel
from elm_mlx.api.over_ranks import load_part, open_shared, refuse_beside
from elm_mlx.api.own_caches import held_by, rows_of, token_bytes, usual_bytes
from elm_mlx.api.unable import refuse_draft_on_ranks
from elm_mlx.arguments import Progress, whole_number
from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import check_bits
from elm_mlx.demo import demo_directory
from elm_mlx.device import check_policy
from elm_mlx.device.memory import CacheWish
from elm_mlx.device.thread import DeviceThread, let_go, refuse_fork, start
from elm_mlx.distributed.leader import LeadingEngine
from elm_mlx.distributed.ranks import Ranks
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.limits import QUEUE, ROWS, Limits
from elm_mlx.engine.warm_up import warm_up
from elm_mlx.engine.worker import Worker, closed
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
    ranks: Ranks | None = None,
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

    With `ranks`, those of `elm_mlx.distributed.meeting.join`, the model is held by several machines together: this is
    rank 0, and the others run `elm_mlx.distributed.follower.follow` with the same options. It takes no draft, no
    adapters, no `lookup`, no files of keys and values, and does not score texts; the process has no other model. Where
    a machine fails, every rank says which one, requests get RankFailed, and the process ends within 2 seconds.

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
    with ranks.together() if ranks else nullcontext():
        return load_found(
            pull_directory(model, bits, force),
            Wishes(cpu_policy, progress, force, cache_bytes, rows, queue, context, draft),
            ranks,
        )


@dataclass(frozen=True)
class Wishes:
    """The arguments of `load` beside the model."""

    cpu_policy: str
    progress: Progress | None
    force: bool
    cache_bytes: int | None
    rows: int
    queue: int
    context: int | None
    draft: str | Path | None


def load_found(directory: Path, wishes: Wishes, ranks: Ranks | None) -> LanguageModel:
    """Loads the model in a directory. Raises as `load`."""
    if ranks:
        refuse_draft_on_ranks(wishes.draft)
    found = find_draft(wishes.draft, directory, force=wishes.force)
    policy, force = wishes.cpu_policy, wishes.force
    holder = object()
    thread = start(holder)
    opened: list[Worker] = []
    try:
        thread.call(lambda _: refuse_beside(thread, ranks))
        loaded = thread.call(lambda relay: load_and_try(directory, policy, relay(wishes.progress), force, ranks))
        loaded = replace(loaded, config=in_context(loaded.config, wishes.context))
        path, wishes = found.path, replace(wishes, rows=rows_of(loaded, wishes.rows))
        second = thread.call(lambda _: load_and_try(path, policy, None, force)) if path else None
        thread.call(lambda _: opened.append(open_engine(thread, Pair(loaded, second), wishes, ranks)))
        notices = (*loaded.notices, *([found.notice] if found.notice else []))
        return LanguageModel(replace(loaded, notices=notices), opened[0], holder, wishes.rows, found.path)
    except BaseException:
        # Where the wait was interrupted (Ctrl-C), the device thread may open the engine all the same; this comes after.
        thread.order(lambda: shut_all(opened))
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


def load_and_try(
    directory: Path, cpu_policy: str, progress: Progress | None, force: bool, ranks: Ranks | None = None
) -> LoadedModel:
    """Loads a model's directory, or this rank's part of it, finds out whether its compiled step runs, and how its
    answers are sampled."""
    sampling = read_defaults(directory).sampling
    if ranks:
        return replace(load_part(directory, cpu_policy, progress, force, ranks), sampling=sampling)
    loaded = load_directory(directory, cpu_policy, progress, force)
    execution = warm_up(loaded.runs, loaded.config.num_layers, loaded.execution)
    return replace(loaded, execution=execution, sampling=sampling)


def open_engine(thread: DeviceThread, pair: Pair, wishes: Wishes, ranks: Ranks | None) -> Worker:
    """Makes the engine of a loaded model, within the memory that is left for caches, and gives it its turns."""
    if ranks:
        return open_leader(thread, pair.target, wishes, ranks)
    loaded, config, cache_bytes = pair.target, pair.target.config, wishes.cache_bytes
    float_bits = 8 * loaded.runs.dtype.size
    usual = sum(usual_bytes(one) for one in pair if one)
    others, wish = workers_of(thread), CacheWish(usual, cache_bytes)
    budget = others[0].engine.limits.budget if others else Budget(0)  # one for all models of the process
    plan_budget(budget, [*(other.wish for other in others), wish])
    limits = Limits(
        config.context_length, token_bytes(loaded), budget, wishes.rows, UNLIMITED,
        head_dim=config.head_dim, float_bits=float_bits, held=held_by(loaded),
    )  # fmt: skip
    speculation = speculation_of(pair)
    speculation.measure()
    engine = Engine(loaded.runs, config.num_layers, limits, loaded.execution, speculation)
    worker = Worker(thread, engine, wishes.rows + wishes.queue, wish)
    thread.turns.append(worker)
    return worker


def open_leader(thread: DeviceThread, loaded: LoadedModel, wishes: Wishes, ranks: Ranks) -> Worker:
    """Makes the engine of rank 0, and gives it its turns. Where a rank fails, its readers are told so at once, as the
    device may hang."""
    engine, wish = open_shared(loaded, ranks, (wishes.cache_bytes, wishes.rows, UNLIMITED), LeadingEngine)
    worker = Worker(thread, engine, wishes.rows + wishes.queue, wish)
    ranks.watch.listeners.append(worker.abandon)
    thread.turns.append(worker)
    return worker


def shut_all(workers: list[Worker]) -> None:
    """Gives back what was opened for a caller that waits no longer."""
    for worker in workers:
        worker.shut(closed())
