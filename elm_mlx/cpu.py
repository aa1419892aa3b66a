"""All policy for MLX's CPU backend, the stand-in where there is no GPU; nothing else decides by it.

Its kernels for 16-bit and quantized products are 9 to 28 times slower than float32 (docs/numerics.md), so the
policy computes in float32 and expands low-bit weights while that fits. It never compiles kernels: MLX builds
them with g++ into a shared temporary folder, where the first build takes seconds and a truncated file, a foreign
one or a compiler that cannot build ends every run after it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.costs import parameter_count
from elm_mlx.errors import InvalidRequest

POLICIES = ("auto", "plain")
NOTICE = "MLX runs on its CPU backend here, a stand-in for Metal: right results, speeds that say nothing about a Mac."


@dataclass(frozen=True)
class Plan:
    """What loading does: `dtype` to compute in (None: as stored), whether to `expand` quantized weights, whether
    kernels may be `compiled`, and the `notice` a program may show."""

    dtype: mx.Dtype | None = None
    expand: bool = False
    compiled: bool = True
    notice: str | None = None


def plan(config: ModelConfig, policy: str = "auto") -> Plan:
    """The plan for this device. "plain" computes as stored, on the CPU too. Raises InvalidRequest for others."""
    if policy not in POLICIES:
        raise InvalidRequest(f"cpu_policy is {policy!r}; it is one of {', '.join(POLICIES)}.")
    if mx.default_device().type == mx.DeviceType.gpu:
        return Plan()
    fits = 4 * parameter_count(config) <= available_memory() / 2
    if policy == "plain" or (config.quantization is None and not fits):
        return Plan(compiled=False, notice=NOTICE)
    return Plan(mx.float32, config.quantization is not None and fits, compiled=False, notice=NOTICE)


def available_memory() -> int:
    """Bytes that a new program can use: the kernel's estimate, a container's limit, or all there is."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [total]
    if (meminfo := Path("/proc/meminfo")).exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
        if "MemAvailable" in fields:
            limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
    if (limit := Path("/sys/fs/cgroup/memory.max")).exists() and (
        text := limit.read_text(encoding="utf-8").strip()
    ) != "max":
        limits.append(int(text))
    return min(limits)
