"""What a command does on ranks above 0: it finds its part of the model, and follows rank 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.messages import with_flags
from elm_mlx.distributed.part import Kind

DEMO = "demo"  # as `serve` names it


def follow(kind: Kind, options: dict[str, Any]) -> None:
    """Does what rank 0 does with the model that the options of a command name, and returns when rank 0 is done. Raises
    RankFailed where a rank failed."""
    prefer_fast_blas()
    from elm_mlx.distributed.follower import follow as follow_leader
    from elm_mlx.distributed.joining import directory_here, join_model

    model, bits = named(options)
    policy, force = options.get("cpu_policy") or "auto", bool(options.get("force"))
    ranks = join_model(kind, lambda: directory_here(model, bits), force, {"cpu_policy": policy}, with_flags)
    follow_leader(directory_here(model, bits), ranks, cpu_policy=policy, force=force)


def named(options: dict[str, Any]) -> tuple[str | None, int | None]:
    """(the model, its bits) that the options of a command name; no model means the demo."""
    model = options.get("model") or next(iter(options.get("models") or ()), None)
    bits = options.get("bits")
    bits = next(iter(bits), None) if isinstance(bits, list) else bits
    is_demo = model == DEMO and not Path(DEMO).is_dir()
    return None if is_demo else model, int(bits) if bits else None
