"""What memory a sidecar holds, and what of it can be given back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from elm_mlx.errors import EngineStopped
from elm_mlx.sidecar.models import Held, Models

WARN, CRITICAL = "warn", "critical"
LEVELS = (WARN, CRITICAL)


async def relieve(models: Models, level: str) -> dict[str, Any]:
    """Gives back what is kept of earlier requests, and what the allocator has in reserve; where it is CRITICAL, all
    models that no request uses, too. Returns what was freed."""
    before = await asyncio.to_thread(figures)
    for lm in [held.lm for held in models if held.lm]:
        with suppress(EngineStopped):  # it has died, or was closed meanwhile, and keeps nothing
            await asyncio.to_thread(lm.forget_prefixes)
    unloaded = await models.free_idle() if level == CRITICAL else []
    await asyncio.to_thread(clear)
    after = await asyncio.to_thread(figures)
    freed = sum(before[name] - after[name] for name in ("active_bytes", "cache_bytes"))
    return {"freed_bytes": max(0, freed), "unloaded": unloaded, **after}


async def status(models: Models) -> dict[str, Any]:
    """The figures of the memory, and of each model."""
    return {**await asyncio.to_thread(figures), "models": [model_object(held) for held in models]}


def model_object(held: Held) -> dict[str, Any]:
    """One model: whether it is in memory, and how many requests use it."""
    return {"model": held.name, "in_memory": held.lm is not None, "requests": held.users}


def figures() -> dict[str, int]:
    """Bytes that MLX's arrays hold now and held at most, that its allocator has in reserve, and that models may fill on
    this machine."""
    from elm_mlx.device.backend import mx
    from elm_mlx.device.memory import memory_limit

    return {"active_bytes": mx.get_active_memory(), "peak_bytes": mx.get_peak_memory(),
            "cache_bytes": mx.get_cache_memory(), "limit_bytes": memory_limit()}  # fmt: skip


def clear() -> None:
    """Gives what the allocator has in reserve back to the system."""
    from elm_mlx.device.backend import mx
    from elm_mlx.device.thread import on_device

    on_device(lambda _: mx.clear_cache())
