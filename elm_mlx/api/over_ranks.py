"""Loading a model that several ranks hold together: each its part, and all of them decide alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from elm_mlx.api.cache_plan import plan_budget, workers_of
from elm_mlx.api.own_caches import token_bytes, usual_bytes
from elm_mlx.arguments import Progress
from elm_mlx.config import GuestConfig
from elm_mlx.device.backend import mx
from elm_mlx.device.compile import compile_function
from elm_mlx.device.execution import Execution
from elm_mlx.device.memory import PREFIX_SHARE, CacheWish
from elm_mlx.device.thread import DeviceThread
from elm_mlx.distributed.leader import Crew, LeadingEngine
from elm_mlx.distributed.ranks import Ranks
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.limits import Limits
from elm_mlx.errors import InvalidRequest, Unsupported
from elm_mlx.store.load import LoadedModel, load_directory

E = TypeVar("E", bound=Engine)
EngineKind = Callable[[Decodes, int, Limits, Execution, Crew], E]


def refuse_beside(thread: DeviceThread, ranks: Ranks | None) -> None:
    """Raises InvalidRequest for a second model in a process of which one is held by several ranks: the memory for
    caches would change with it, and with that what a rank decides. On the device thread."""
    workers = workers_of(thread)
    if workers and (ranks or any(isinstance(worker.engine, LeadingEngine) for worker in workers)):
        raise InvalidRequest("A model that several ranks hold together is the only one of its process.",
                             "Close the other one first.")  # fmt: skip


def load_part(directory: Path, cpu_policy: str, progress: Progress | None, force: bool, ranks: Ranks) -> LoadedModel:
    """Loads this rank's part of a model. It computes on one stream, as collectives must have one order. On the device
    thread. Raises as `load_directory`, and Unsupported for a guest."""
    loaded = load_directory(directory, cpu_policy, progress, force, part=ranks.part)
    if isinstance(loaded.config, GuestConfig):
        raise Unsupported(f"{directory} is a model of the kind {loaded.config.model_type}, which mlx-lm's classes "
                          "compute: these do not go over several machines.")  # fmt: skip
    compiled = can_compile(loaded.execution)
    return replace(loaded, execution=replace(loaded.execution, streams=(), compiled=compiled))


def can_compile(execution: Execution) -> bool:
    """Whether this machine builds compiled kernels, where they are asked for and may not. A step of the model would be
    no test for one rank alone: the others would have to take it, too."""
    if not (execution.compiled and execution.try_first):
        return execution.compiled
    try:
        mx.eval(compile_function(lambda x: mx.exp(x) * x + 1)(mx.array([1.0])))
    except RuntimeError:
        return False
    return True


def open_shared(
    loaded: LoadedModel, ranks: Ranks, asked: tuple[int | None, int, int], kind: EngineKind[E]
) -> tuple[E, CacheWish]:
    """Makes the engine of this rank, within what all ranks have for caches, with the `asked` bytes for caches, rows and
    requests that may wait; and what it calls for. All ranks call it at once. On the device thread."""
    cache_bytes, rows, queue = asked
    held, unit = loaded.held, token_bytes(loaded)
    budget, wish = Budget(0), CacheWish(usual_bytes(loaded), cache_bytes)
    plan_budget(budget, [wish])
    execution = loaded.execution
    own = {"positions": budget.limit // unit, "compiled": execution.compiled, "execution": numbers_of(execution),
           "rows": rows, "context": loaded.config.context_length}  # fmt: skip
    all_of_them = ranks.gather(own)
    first, positions = all_of_them[0], min(one["positions"] for one in all_of_them)
    execution = replace(execution, compiled=all(one["compiled"] for one in all_of_them), **first["execution"])
    loaded.runs.set_compiled(execution.compiled)
    budget.limit, budget.kept = positions * unit, int(positions * PREFIX_SHARE) * unit
    limits = Limits(
        first["context"], unit, budget, first["rows"], queue,
        head_dim=held.head_dim, float_bits=8 * loaded.runs.dtype.size,
    )  # fmt: skip
    return kind(loaded.runs, held.num_layers, limits, execution, ranks), wish


def numbers_of(execution: Execution) -> dict[str, Any]:
    """What of an Execution decides which steps are taken."""
    return {"chunk": execution.chunk, "chunk_area": execution.chunk_area, "grow_by": execution.grow_by}
