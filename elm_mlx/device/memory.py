"""What this machine has for a model: its memory, as MLX and the operating system tell it."""

from __future__ import annotations

import os
from pathlib import Path

RECOMMENDED = "max_recommended_working_set_size"  # MLX's name for it
WIRED_FROM = 0.5  # of the memory that Metal recommends: a choice nobody has measured


def memory_limit() -> int:
    """Bytes that a model may fill: on a Mac what Metal recommends of the unified memory, on an NVIDIA GPU its own
    memory, and else what is free."""
    from elm_mlx.device.backend import mx

    device = mx.device_info()
    return int(device.get(RECOMMENDED) or device.get("total_memory") or free_memory())


def wire(planned: int) -> None:
    """On a Mac, keeps what MLX holds and `planned` bytes more from being paged out, at most what Metal recommends.

    Only where that is more than half of it: very large models are said to run ten times slower without (mlx-lm#652),
    and wiring to have stopped macOS (mlx#3186, mlx-lm#883).
    Source: MLX's documentation of `set_wired_limit`.
    """
    from elm_mlx.device.backend import mx

    recommended = int(mx.device_info().get(RECOMMENDED, 0))  # which Metal alone says
    held = mx.get_active_memory() + planned
    if recommended and held > recommended * WIRED_FROM:
        mx.synchronize()  # the limit must not change under what is being computed
        mx.set_wired_limit(min(held, recommended))


def free_memory() -> int:
    """Bytes that a new program can use: the kernel's estimate, a container's limit, or all there is."""
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


def backend() -> str:
    """The kind of device that MLX computes on here, with its name."""
    from elm_mlx.device.backend import mx

    kind = "Metal" if mx.metal.is_available() else "CUDA" if mx.cuda.is_available() else "CPU"
    return f"{kind}, {mx.device_info().get('device_name', 'unnamed')}"
