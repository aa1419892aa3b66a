"""The memory of this machine: what a model takes of it, what is left for caches, and the refusals where that is too
little."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from elm_mlx.config import ModelConfig
from elm_mlx.errors import NotEnoughMemory
from elm_mlx.files import readable_size

PLANNED_CONTEXT = 4096  # positions that a model's memory is planned for; `info` takes another number
HEADROOM_BYTES = 64 * 2**20  # for the program itself
HEADROOM_SHARE = 0.1  # of the weights' bytes, for activations
RECOMMENDED = "max_recommended_working_set_size"  # bytes that Metal recommends, by MLX's name
WIRED_FROM = 0.5  # share of the recommended memory; chosen, not measured
PREFIX_SHARE = 0.25  # of the bytes for caches, that those of ended requests may fill; chosen, not measured


def memory_limit() -> int:
    """Bytes that a model may fill: the part of the unified memory that Metal recommends, an NVIDIA GPU's own memory, or
    the free memory where there is no GPU."""
    return gpu_memory() or free_memory()


def gpu_memory() -> int:
    """Bytes that Metal recommends to fill, or those of an NVIDIA GPU; 0 where there is no GPU. The number stays the
    same whatever is held there."""
    from elm_mlx.device.backend import mx

    device = mx.device_info()
    return int(device.get(RECOMMENDED) or device.get("total_memory") or 0)


def wire(planned: int) -> None:
    """On a Mac, keeps what MLX holds and `planned` bytes more from being paged out, at most what Metal recommends. Call
    it when a model is loaded, with the bytes that caches are expected to fill.

    This happens only where these bytes are more than half of what Metal recommends: without it very large models are
    reported to run ten times slower (mlx-lm#652), and wiring memory is reported to have stopped macOS (mlx#3186,
    mlx-lm#883).
    Source: MLX's documentation of `set_wired_limit`.
    """
    from elm_mlx.device.backend import mx

    recommended = int(mx.device_info().get(RECOMMENDED, 0))  # only Metal recommends a size
    held = mx.get_active_memory() + planned
    if recommended and held > recommended * WIRED_FROM:
        mx.synchronize()  # the limit must not change under what is being computed
        mx.set_wired_limit(min(held, recommended))


def free_memory() -> int:
    """Bytes that a program can still use: the kernel's estimate, what a container has left or the machine's memory,
    whichever is least."""
    limits = [total_memory()]
    if (meminfo := Path("/proc/meminfo")).exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
        if "MemAvailable" in fields:
            limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
    if (limit := container_limit(Path("/sys/fs/cgroup"))) is not None:
        limits.append(limit)
    return min(limits)


def container_limit(folder: Path) -> int | None:
    """Bytes that the container whose files lie in `folder` lets its programs use beside those that they use already;
    None without a limit. Pages of files that the kernel would give up count as free."""
    if not (path := folder / "memory.max").exists() or (text := path.read_text(encoding="utf-8").strip()) == "max":
        return None
    used = 0
    if (current := folder / "memory.current").exists():
        used = int(current.read_text(encoding="utf-8"))
    if (statistics := folder / "memory.stat").exists():
        lines = statistics.read_text(encoding="utf-8").splitlines()
        used -= next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return max(0, int(text) - max(0, used))


def total_memory() -> int:
    """Bytes of memory in the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory that a model takes while it runs, with a cache for `context` positions."""

    weights: int
    cache: int
    headroom: int
    context: int

    @property
    def total(self) -> int:
        """Bytes of weights, cache and headroom together."""
        return self.weights + self.cache + self.headroom

    def __str__(self) -> str:
        parts = f"weights {readable_size(self.weights)}, cache {readable_size(self.cache)} for {self.context:,} tokens"
        return f"{readable_size(self.total)} ({parts}, headroom {readable_size(self.headroom)})"


def footprint(config: ModelConfig, weights: int, float_bits: int = 16, context: int | None = None) -> Footprint:
    """Estimates the memory of a model with `weights` bytes of weights and a cache in floats of `float_bits`, for
    `context` positions: 4,096 by default, and at most the model's context length."""
    positions = min(context or PLANNED_CONTEXT, config.context_length)
    cache = config.kv_bytes_per_token(float_bits) * positions
    return Footprint(weights, cache, headroom(weights), positions)


def rough_bytes(parameters: int, bits: int | None) -> int:
    """Estimates the bytes that a model takes without a cache, by its number of parameters alone: with `bits` in groups
    of 64, or, for None, in 16-bit floats."""
    weights = int(parameters * (bits + 0.5 if bits else 16) / 8)
    return weights + headroom(weights)


def headroom(weights: int) -> int:
    """Bytes that are planned beside weights and cache for a model with `weights` bytes of weights."""
    return HEADROOM_BYTES + int(weights * HEADROOM_SHARE)


def check_memory(model: object, config: ModelConfig, weights: int, float_bits: int, held: int = 0) -> None:
    """Raises NotEnoughMemory, with the numbers, for a model that this machine has no room for. Loading asks before it
    reads the weights, and a pull before it fetches them. `held` are the bytes of weights that are loaded already."""
    takes, available = footprint(config, weights, float_bits), memory_limit()
    if held and gpu_memory():  # free memory is less by them already
        available = max(0, available - held)
    if takes.total > available:
        raise NotEnoughMemory(
            f"{model} takes {takes}, and this machine has {readable_size(available)} for it.",
            "Take a smaller model or fewer bits, close other programs, or try with {force=True}.",
            takes.total, available,
        )  # fmt: skip


@dataclass(frozen=True)
class CachePlan:
    """Bytes for the caches of all models of this process: at most `total`, of which those of ended requests fill at
    most `prefixes`. They are expected to fill `expected` bytes, which is what `wire` is told: where nobody asked for a
    number, `total` is all the room there is, and would call for wiring beside the smallest model."""

    total: int
    prefixes: int
    expected: int


def cache_room(weights: int, caches: int = 0) -> int:
    """Bytes that are left for caches beside `weights` bytes of weights, those of all loaded models, and the headroom.
    `caches` are the bytes that caches hold already; they are part of the room."""
    if limit := gpu_memory():
        return room_beside(weights, limit)
    return room_beside(weights, free_memory() + weights + caches)


def room_beside(weights: int, limit: int) -> int:
    """Bytes that are left for caches where weights, caches and headroom may fill `limit` bytes; at least 0."""
    return max(0, limit - weights - headroom(weights))


@dataclass(frozen=True)
class CacheWish:
    """What one loaded model calls for: the `usual` bytes of a cache for the planned context, and the `most` that the
    caches of all models may take, if somebody has said so."""

    usual: int
    most: int | None = None


def plan_caches(requested: int | None, room: int, usual: int) -> CachePlan:
    """Decides how many bytes caches get: those that are `requested`, or else all the `room` that there is.

    `usual` are the bytes of a cache for the planned context (Footprint.cache). A model that was loaded though it does
    not fit has at least these. Raises NotEnoughMemory, with the numbers, where more is requested than there is.
    """
    available = max(room, usual)
    if requested is not None and requested > available:
        raise NotEnoughMemory(
            f"Caches are to get {readable_size(requested)}, and beside the weights there are "
            f"{readable_size(available)} for them.",
            "Give them less, load fewer models, take fewer {bits}, or close other programs.",
            requested, available,
        )  # fmt: skip
    total = available if requested is None else requested
    return CachePlan(total, int(total * PREFIX_SHARE), min(total, usual) if requested is None else requested)


def too_large(nbytes: int, limit: int, positions: int = 0) -> NotEnoughMemory:
    """Makes the error for a request that can never run: its caches take `nbytes` bytes, and all caches together have
    `limit`. Where the number of its positions is given, the error says how many would fit."""
    what = f" for {positions:,} tokens" if positions else ""
    fit = f", enough for {limit * positions // nbytes:,} tokens" if positions else ""
    return NotEnoughMemory(
        f"The request needs {readable_size(nbytes)} of cache{what}, and caches have {readable_size(limit)} here{fit}.",
        "Give fewer {max_tokens}, a shorter prompt, fewer {kv_bits}, or a model in fewer {bits}.",
        nbytes, limit,
    )  # fmt: skip


def no_place_to_stay(nbytes: int, most: int, others: int) -> NotEnoughMemory:
    """Makes the error for keys and values from a file: they take `nbytes` bytes, and `most` are left for what stays in
    memory between requests, beside so many `others` that were loaded."""
    beside = f" beside {others} that were loaded before" if others else ""
    return NotEnoughMemory(
        f"The loaded keys and values take {readable_size(nbytes)}, and {readable_size(most)} are left for what stays "
        f"in memory between requests{beside}.",
        "Close other programs, or load the model with more cache_bytes, of which a quarter is for that; or forget what "
        "was loaded before (`forget_prefixes()`).",
        nbytes, most,
    )  # fmt: skip
