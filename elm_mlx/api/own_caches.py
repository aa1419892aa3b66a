"""What the caches of a loaded model take, be they the engine's or a guest's own."""

from __future__ import annotations

from collections.abc import Callable

from elm_mlx.device.memory import PLANNED_CONTEXT, footprint
from elm_mlx.models.guest import Guest
from elm_mlx.store.load import LoadedModel


def rows_of(loaded: LoadedModel, rows: int) -> int:
    """How many requests are answered together, where so many may be."""
    return rows if loaded.config.abilities.rows else 1


def token_bytes(loaded: LoadedModel) -> int:
    """Bytes that one position takes in the caches of all layers; of a guest, while all of them grow."""
    if isinstance(loaded.runs, Guest):
        return loaded.runs.sizes.per_position
    return loaded.held.kv_bytes_per_token(8 * loaded.runs.dtype.size)


def held_by(loaded: LoadedModel) -> Callable[[int], int] | None:
    """What a guest's caches take for so many positions; None for a model without caches of its own."""
    return loaded.runs.sizes.bytes_of if isinstance(loaded.runs, Guest) else None


def usual_bytes(loaded: LoadedModel) -> int:
    """Bytes of a cache for the planned context."""
    context = min(PLANNED_CONTEXT, loaded.config.context_length)
    takes = footprint(loaded.held, 0, 8 * loaded.runs.dtype.size, context)
    held = held_by(loaded)
    return held(takes.context) if held else takes.cache
