"""What a model takes on machines that need not be here: bytes a rank, the context that fits, and bounds of its speed.

All of it is arithmetic on the model's shape, on published bandwidths and on latencies that others have told; nothing is
measured. docs/distributed.md works through an example, with the sources.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import QUANTIZATION_MODES
from elm_mlx.device.chips import known
from elm_mlx.device.memory import PLANNED_CONTEXT, headroom
from elm_mlx.distributed.cuts import check_tensor
from elm_mlx.distributed.part import PIPELINE, TENSOR, Kind, Share
from elm_mlx.errors import InvalidRequest, NotEnoughMemory, Unsupported
from elm_mlx.files import readable_size

WORKING_SET = 0.75  # of a Mac's memory: what Metal recommends to fill of larger ones
GIB = 2**30  # what Apple calls a GB of memory
MOST_MACHINES, MOST_GB = 64, 4096
HOSTS = re.compile(r"(\d{1,4})x(\d{1,5})")
# Seconds of a small collective between two Macs, as told by others: under 50 µs for RDMA over Thunderbolt 5, 300 µs over
# TCP (J. Geerling, "1.5 TB of VRAM on Mac Studio", December 2025). MLX's documentation says an order of magnitude.
LATENCY = {"jaccl": 50e-6, "ring": 300e-6}
LARGEST_GB = {"M1 Ultra": 128, "M3 Ultra": 512, "M4 Max": 128, "M5 Max": 128}  # Apple's technical specifications
BITS = tuple(sorted(QUANTIZATION_MODES["affine"][0], reverse=True))


@dataclass(frozen=True)
class Held:
    """What one rank holds: bytes of weights, those of them that a step reads, bytes of keys and values for a position,
    and the numbers of its blocks."""

    weights: int
    read: int
    kv: int
    blocks: range


Holding = Callable[[Kind, int], list[Held]]
"""What each rank holds, by the kind and the number of ranks. Raises Unsupported where so many cannot hold it."""


@dataclass(frozen=True)
class RankPlan:
    """A rank on a machine: bytes of its memory that a model may fill, and what it holds."""

    available: int
    held: Held

    @property
    def needed(self) -> int:
        """Bytes without any cache."""
        return self.held.weights + headroom(self.held.weights)

    @property
    def positions(self) -> int:
        """Positions whose keys and values have room; below 0 where there is none for the weights."""
        return (self.available - self.needed) // self.held.kv


@dataclass(frozen=True)
class Plan:
    """A model on machines: how they hold it, the context in tokens that fits, and the collectives of a step."""

    kind: Kind
    ranks: tuple[RankPlan, ...]
    context: int
    collectives: int

    def seconds(self, bandwidth: float, latency: float, depth: int = 0) -> float:
        """The least time of a token of one request, by what is read, with so many positions in the caches: bytes a
        second of the memory of each machine, seconds of a collective. Ranks of a pipeline work one after the other."""
        reads = [rank.held.read + rank.held.kv * depth for rank in self.ranks]
        return (max(reads) if self.kind == TENSOR else sum(reads)) / bandwidth + self.collectives * latency

    def bounds(self, largest_gb: int) -> dict[str, dict[str, float]]:
        """Tokens a second that one request cannot exceed, with empty caches: by chip, and by way between machines."""
        chips = {name: facts["bandwidth_gb_s"] * 1e9 for name, facts in known()["chips"].items()
                 if LARGEST_GB.get(name, MOST_GB) >= largest_gb}  # fmt: skip
        return {
            chip: {way: 1 / self.seconds(bandwidth, latency) for way, latency in LATENCY.items()}
            for chip, bandwidth in chips.items()
        }


def read_machines(text: str) -> list[int]:
    """The memory of each machine in GB: "2x128,1x64" are three. Raises InvalidRequest."""
    machines: list[int] = []
    for word in text.split(","):
        found = HOSTS.fullmatch(word.strip())
        if not found or not int(found[1]) or not 0 < int(found[2]) <= MOST_GB:
            raise InvalidRequest(f"{word[:40]!r} names no machines. Write their number and their memory in GB, as in "
                                 "2x128 or 1x512,2x256.")  # fmt: skip
        machines += [int(found[2])] * int(found[1])
        if len(machines) > MOST_MACHINES:
            raise InvalidRequest(f"These are more than {MOST_MACHINES} machines.")
    return machines


def available(gigabytes: int) -> int:
    """Bytes of a machine's memory that a model may fill."""
    return int(gigabytes * GIB * WORKING_SET)


def held_of(share: Share, weights: int, float_bits: int) -> Held:
    """What a rank holds that has this share, `weights` bytes as they are stored, and a cache of floats."""
    shapes, config = share.config.weight_shapes(), share.config
    sizes = {name: prod(cut.shape(shapes[name])) for name, cut in share.cuts.items()}
    read = sum(config.times_read(name) * size for name, size in sizes.items())
    return Held(weights, weights * read // sum(sizes.values()), share.held.kv_bytes_per_token(float_bits), share.blocks)


def bytes_in(share: Share, bits: int | None) -> int:
    """Bytes of a share, quantized to these bits in groups of 64, or in 16-bit floats: as `quantized_bytes` counts."""
    return share.parameter_count * (bits * 64 + 32) // 512 if bits else 2 * share.parameter_count


def kind_for(config: ModelConfig, ranks: int, asked: Kind | None) -> Kind:
    """How so many ranks hold a model: as asked, else by a share of every layer where they can. Raises Unsupported."""
    if asked != PIPELINE:
        try:
            check_tensor(config, ranks)
        except Unsupported:
            if asked:
                raise
            return PIPELINE
    return asked or TENSOR


def collectives_of(config: ModelConfig, kind: Kind, ranks: int) -> int:
    """Collectives of a step, one after the other: two sums a layer, embedding, logits and the drawn id; or a send from
    rank to rank and back to rank 0, and the drawn id."""
    return 2 * config.num_layers + 3 if kind == TENSOR else ranks + 1


def plan(name: str, config: ModelConfig, machines: Sequence[int], holding: Holding, asked: Kind | None) -> Plan:
    """Plans a model on machines with so many GB each. Raises NotEnoughMemory where it does not fit, with what would,
    and Unsupported where so many ranks cannot hold it."""
    kind = kind_for(config, len(machines), asked)
    found = lay_out(config, machines, holding, kind)
    least = min(PLANNED_CONTEXT, config.context_length)
    if found.context < least:
        raise too_small(name, found, machines, least)
    return found


def lay_out(config: ModelConfig, machines: Sequence[int], holding: Holding, kind: Kind) -> Plan:
    """The plan, whether it fits or not; its context is below 0 where the weights do not."""
    ranks = tuple(
        RankPlan(available(size), held) for size, held in zip(machines, holding(kind, len(machines)), strict=True)
    )
    context = min(config.context_length, *(rank.positions for rank in ranks))
    return Plan(kind, ranks, context, collectives_of(config, kind, len(machines)))


def too_small(name: str, found: Plan, machines: Sequence[int], least: int) -> NotEnoughMemory:
    """Makes the error for machines that are too small, about the one that lacks most."""
    place = min(range(len(machines)), key=lambda rank: found.ranks[rank].positions)
    rank = found.ranks[place]
    needed = rank.needed + least * rank.held.kv
    return NotEnoughMemory(
        f"{name} does not fit: rank {place} would take {readable_size(needed)} (weights "
        f"{readable_size(rank.held.weights)}, a cache for {least:,} tokens, headroom), and a machine of "
        f"{machines[place]} GB has {readable_size(rank.available)} for a model.",
        needed=needed, available=rank.available,
    )  # fmt: skip


def would_fit(config: ModelConfig, machines: Sequence[int], holding: Holding, kind: Kind | None) -> bool:
    """Whether a model fits on machines."""
    try:
        plan("", config, machines, holding, kind)
    except (NotEnoughMemory, Unsupported):
        return False
    return True
