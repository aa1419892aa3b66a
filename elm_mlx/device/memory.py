"""The memory of this machine, how much of it a model takes, and the check that a model fits."""

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


def memory_limit() -> int:
    """Bytes that a model may fill: the part of the unified memory that Metal recommends, an NVIDIA GPU's own memory, or
    the free memory where there is no GPU."""
    from elm_mlx.device.backend import mx

    device = mx.device_info()
    return int(device.get(RECOMMENDED) or device.get("total_memory") or free_memory())


def wire(planned: int) -> None:
    """On a Mac, keeps what MLX holds and `planned` bytes more from being paged out, at most what Metal recommends.

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
    """Bytes that a new program can use: the kernel's estimate, a container's limit or the machine's memory, whichever
    is least."""
    limits = [total_memory()]
    if (meminfo := Path("/proc/meminfo")).exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
        if "MemAvailable" in fields:
            limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
    if (limit := Path("/sys/fs/cgroup/memory.max")).exists() and (
        text := limit.read_text(encoding="utf-8").strip()
    ) != "max":
        limits.append(int(text))
    return min(limits)


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


def check_memory(model: object, config: ModelConfig, weights: int, float_bits: int) -> None:
    """Raises NotEnoughMemory, with the numbers, for a model that this machine has no room for. Loading asks before it
    reads the weights, and a pull before it fetches them."""
    takes, available = footprint(config, weights, float_bits), memory_limit()
    if takes.total > available:
        raise NotEnoughMemory(
            f"{model} takes {takes}, and this machine has {readable_size(available)} for it.",
            "Take a smaller model or fewer bits, close other programs, or try with {force=True}.",
            takes.total, available,
        )  # fmt: skip
