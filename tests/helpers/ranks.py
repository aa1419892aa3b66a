"""Ranks of one process, a thread each, and what they do together: a stand-in for MLX's distributed group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Barrier
from typing import TypeVar

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.distributed.part import Kind, Part
from elm_mlx.models import build_share
from elm_mlx.models.parameters import Parameters
from elm_mlx.models.pipelined import LowerStage, UpperStage
from elm_mlx.models.sharded import ShardedLlama
from elm_mlx.store.parts import read_share

T = TypeVar("T")
SECONDS = 20  # after which a rank that waits for another one fails


class Room:
    """Where the ranks of a process meet."""

    def __init__(self, ranks: int) -> None:
        self.ranks, self.barrier = ranks, Barrier(ranks, timeout=SECONDS)
        self.given: list[mx.array] = [mx.array(0)] * ranks
        self.sent = {(a, b): Queue[mx.array]() for a in range(ranks) for b in range(ranks)}


class Thread:
    """The Collectives of one rank of a Room. Everything is done at once, and counted by name."""

    def __init__(self, room: Room, rank: int) -> None:
        self.room, self.rank, self.done = room, rank, Counter[str]()

    def all(self, name: str, x: mx.array) -> list[mx.array]:
        """All ranks' arrays."""
        self.done[name] += 1
        mx.eval(x)
        self.room.given[self.rank] = x
        self.room.barrier.wait()
        found = list(self.room.given)
        self.room.barrier.wait()
        assert len({(one.dtype, one.shape) for one in found}) == 1
        return found

    def sum(self, x: mx.array) -> mx.array:
        first, *others = self.all("sum", x)
        return sum(others, first)

    def least(self, x: mx.array) -> mx.array:
        return mx.stack(self.all("least", x)).min(0)

    def gather(self, x: mx.array) -> mx.array:
        return mx.concatenate(self.all("gather", x))

    def send(self, x: mx.array, rank: int) -> mx.array:
        self.done["send"] += 1
        mx.eval(x)
        self.room.sent[self.rank, rank].put(x)
        return x

    def receive(self, shape: Sequence[int], dtype: mx.Dtype, rank: int) -> mx.array:
        self.done["receive"] += 1
        x = self.room.sent[rank, self.rank].get(timeout=SECONDS)
        assert (x.shape, x.dtype) == (tuple(shape), dtype)
        return x


def in_ranks(ranks: int, do: Callable[[Thread], T]) -> list[T]:
    """What a function gives on each of so many ranks."""
    room = Room(ranks)

    def one(rank: int) -> T:
        try:
            return do(Thread(room, rank))
        except BaseException:
            room.barrier.abort()  # else the others would wait
            raise

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(one, range(ranks)))


def share(directory: Path, config: ModelConfig, kind: Kind, group: Thread) -> ShardedLlama | UpperStage | LowerStage:
    """The share of a rank, read from a directory, in the stored type and uncompiled."""
    held, pieces = read_share(directory, config, Part(kind, group.rank, group.room.ranks))
    parameters = Parameters(pieces, config.quantization, pieces.dtype, mx.eval)
    model = build_share(held, parameters, group, compiled=False)
    assert not pieces.pieces, "every piece is used"
    return model
