"""What a rank says of itself when all meet: which model it has, and whether its part fits into its memory."""

from __future__ import annotations

from pathlib import Path

from elm_mlx.device.memory import headroom, memory_limit
from elm_mlx.distributed.hello import Facts
from elm_mlx.distributed.hosts import Hosts
from elm_mlx.distributed.part import Kind
from elm_mlx.store.fingerprint import model_fingerprint, tokenizer_fingerprint
from elm_mlx.store.load import read_config
from elm_mlx.store.parts import rank_bytes


def facts_of(directory: Path, kind: Kind | None, hosts: Hosts, force: bool = False) -> Facts:
    """The Facts of this rank, which has a model's directory. With `force` nothing is asked of memory. Raises as the
    functions that read a model's files, and Unsupported for a model that cannot be cut so.

    Ranks with one address share the memory of one machine.
    """
    config = read_config(directory)
    fingerprint = f"{model_fingerprint(directory, config)} {tokenizer_fingerprint(directory)}"
    needs = 0 if force or not kind else rank_bytes(directory, config, kind, hosts.ranks)[hosts.rank]
    beside = hosts.addresses.count(hosts.addresses[hosts.rank]) if hosts.addresses[hosts.rank] else 1
    return Facts(directory.name, fingerprint, needs + headroom(needs) if needs else 0, memory_limit() // beside)
