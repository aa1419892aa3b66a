"""What a model takes on machines that need not be here: bytes a rank, the context that fits, and bounds of its speed.

All of it is arithmetic on the model's shape, on published bandwidths and on latencies that others have told; nothing is
measured. docs/distributed.md works through an example, with the sources.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import QUANTIZATION_MODES, Quantization
from elm_mlx.device.chips import known
from elm_mlx.device.memory import PLANNED_CONTEXT, headroom
from elm_mlx.distributed.cuts import check_tensor, tensor_share
from elm_mlx.distributed.part import TENSOR, Kind, Part, Share
from elm_mlx.distributed.stages import pipeline_share
from elm_mlx.errors import InvalidRequest, NotEnoughMemory, Unsupported
from elm_mlx.files import readable_size
from elm_mlx.store.parts import read_share

WORKING_SET = 0.75  # of a Mac's memory: what Metal recommends to fill of larger ones
GIB = 2**30  # what Apple calls a GB of memory
MOST_MACHINES, MOST_GB = 64, 4096
MOST_TRIED = 8  # numbers of machines
HOSTS = re.compile(r"(\d{1,4})x(\d{1,5})", re.ASCII)
# Seconds of a small collective between two Macs, as others tell: under 50 µs by RDMA over Thunderbolt 5, 300 µs by TCP
# (J. Geerling, "1.5 TB of VRAM on Mac Studio", December 2025). MLX's documentation says an order of magnitude.
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
class Question:
    """A model by its name and shape, the memory of each machine in GB, how the ranks are to hold it (None: as they can)
    and for how many tokens of context at least."""

    name: str
    config: ModelConfig
    machines: tuple[int, ...]
    kind: Kind | None = None
    context: int | None = None

    @property
    def least(self) -> int:
        """The tokens that must fit: those asked for, or those that loading plans for."""
        return min(self.context or PLANNED_CONTEXT, self.config.context_length)


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
        second of each machine's memory, seconds of a collective. Ranks of a pipeline work one after the other."""
        reads = [rank.held.read + rank.held.kv * depth for rank in self.ranks]
        return (max(reads) if self.kind == TENSOR else sum(reads)) / bandwidth + self.collectives * latency

    def bounds(self, largest: int, depth: int = 0) -> dict[str, dict[str, float]]:
        """Tokens a second that one request cannot exceed: by chip, among those that machines of so many GB have, and by
        the way between machines."""
        chips = {name: facts["bandwidth_gb_s"] * 1e9 for name, facts in known()["chips"].items()
                 if LARGEST_GB.get(name, MOST_GB) >= largest}  # fmt: skip
        return {
            chip: {way: 1 / self.seconds(bandwidth, latency, depth) for way, latency in LATENCY.items()}
            for chip, bandwidth in chips.items()
        }


def read_machines(text: str) -> tuple[int, ...]:
    """The memory of each machine in GB: "2x128,1x64" are three. Raises InvalidRequest."""
    machines: list[int] = []
    for word in text.split(","):
        found = HOSTS.fullmatch(word.strip())
        if not found or not int(found[1]) or not 0 < int(found[2]) <= MOST_GB:
            raise InvalidRequest(f"{word[:40]!r} names no machines. Write their number and their memory in GB, as in "
                                 "2x128 or 1x512,2x256.")  # fmt: skip
        machines += [int(found[2])] * int(found[1])
        if len(machines) > MOST_MACHINES:
            raise InvalidRequest(f"These are more than {MOST_MACHINES} machines. Name fewer.")
    return tuple(machines)


def available(gigabytes: int) -> int:
    """Bytes of a machine's memory that a model may fill."""
    return int(gigabytes * GIB * WORKING_SET)


# What ranks hold


def quantized(config: ModelConfig, bits: int | None) -> ModelConfig:
    """A model's shape in these bits and groups of 64, which ranks may not cut through, or in 16-bit floats."""
    return replace(config, quantization=Quantization(bits) if bits else None)


def in_bits(config: ModelConfig, bits: int | None) -> Holding:
    """What ranks hold of a model in these bits and groups of 64, or in 16-bit floats, by its shape alone; bytes are
    counted as `quantized_bytes` does."""

    def stored(parameters: int) -> int:
        return parameters * (bits * 64 + 32) // 512 if bits else 2 * parameters

    sizes = {name: stored(prod(shape)) for name, shape in config.weight_shapes().items()}

    def hold(kind: Kind, ranks: int) -> list[Held]:
        shares = [share_of(config, Part(kind, rank, ranks), sizes) for rank in range(ranks)]
        return [held_of(share, stored(share.parameter_count), 16) for share in shares]

    return hold


def in_directory(directory: Path, config: ModelConfig) -> Holding:
    """What ranks hold of a model as it is stored, from the headers of its files."""

    def hold(kind: Kind, ranks: int) -> list[Held]:
        found = [read_share(directory, config, Part(kind, rank, ranks)) for rank in range(ranks)]
        return [held_of(share, pieces.nbytes, 8 * pieces.dtype.size) for share, pieces in found]

    return hold


def share_of(config: ModelConfig, part: Part, sizes: Mapping[str, int]) -> Share:
    """What a rank holds of a model whose weights have these bytes. Raises Unsupported."""
    return tensor_share(config, part) if part.kind == TENSOR else pipeline_share(config, part, sizes)


def held_of(share: Share, weights: int, float_bits: int) -> Held:
    """What a rank holds that has this share: `weights` bytes as they are stored, and a cache of floats."""
    shapes, config = share.config.weight_shapes(), share.config
    sizes = {name: prod(cut.shape(shapes[name])) for name, cut in share.cuts.items()}
    read = sum(config.times_read(name) * size for name, size in sizes.items())
    return Held(weights, weights * read // sum(sizes.values()), share.held.kv_bytes_per_token(float_bits), share.blocks)


def kind_for(question: Question) -> Kind:
    """How the ranks hold a model: as asked, else by a share of every layer where they can. Raises Unsupported."""
    if question.kind == "pipeline":
        return "pipeline"
    try:
        check_tensor(question.config, len(question.machines))
    except Unsupported:
        if question.kind:
            raise
        return "pipeline"
    return "tensor"


def collectives_of(config: ModelConfig, kind: Kind, ranks: int) -> int:
    """Collectives of a step, one after the other: two sums a layer, embedding, logits and the drawn id; or a send from
    rank to rank and back to rank 0, and the drawn id."""
    if ranks == 1:
        return 0
    return 2 * config.num_layers + 3 if kind == TENSOR else ranks + 1


# Plans


def plan(question: Question, holding: Holding) -> Plan:
    """Plans a model on machines. Raises NotEnoughMemory where it does not fit, with what would, and Unsupported where
    so many ranks cannot hold it."""
    found = lay_out(question, holding)
    if found.context < question.least:
        raise too_small(question, found, holding)
    return found


def lay_out(question: Question, holding: Holding) -> Plan:
    """The plan, whether it fits or not; its context is below 0 where the weights do not."""
    kind, machines = kind_for(question), question.machines
    ranks = tuple(
        RankPlan(available(size), held) for size, held in zip(machines, holding(kind, len(machines)), strict=True)
    )
    context = min(question.config.context_length, *(rank.positions for rank in ranks))
    return Plan(kind, ranks, context, collectives_of(question.config, kind, len(machines)))


def too_small(question: Question, found: Plan, holding: Holding) -> NotEnoughMemory:
    """Makes the error for machines that are too small: about the one that lacks most, and with what would fit."""
    place = min(range(len(found.ranks)), key=lambda rank: found.ranks[rank].positions)
    rank = found.ranks[place]
    needed = rank.needed + question.least * rank.held.kv
    machine = f"{question.machines[place]} GB"
    return NotEnoughMemory(
        f"{question.name} does not fit: rank {place} would take {readable_size(needed)} (weights "
        f"{readable_size(rank.held.weights)}, a cache for {question.least:,} tokens, and headroom), and a machine of "
        f"{machine} has {readable_size(rank.available)} for a model.",
        remedy(question, holding), needed, rank.available,
    )  # fmt: skip


def remedy(question: Question, holding: Holding) -> str:
    """What would fit: more machines like the largest, or fewer bits on these."""
    largest = max(question.machines)
    more = next((n for n in enough(question, holding, largest)
                 if fits(replace(question, machines=(largest,) * n), holding)), None)  # fmt: skip
    few = ((bits, quantized(question.config, bits)) for bits in BITS)
    fewer = next((bits for bits, config in few if fits(replace(question, config=config), in_bits(config, bits))), None)
    ways = [f"on {more} machines of {largest} GB ({{hosts={more}x{largest}}})"] if more else []
    ways += [f"on these in {{bits={fewer}}}"] if fewer else []
    return f"It would fit {' or '.join(ways)}." if ways else "No number of such machines holds it."


def enough(question: Question, holding: Holding, gigabytes: int) -> range:
    """The first numbers of machines with so many GB whose memory together is enough, beyond those asked about: a few of
    them, as most fail for how a model can be cut."""
    (whole,) = holding("pipeline", 1)
    needed = RankPlan(0, whole).needed + question.least * whole.kv
    first = max(len(question.machines) + 1, -(-needed // available(gigabytes)))
    return range(first, min(first + MOST_TRIED, MOST_MACHINES + 1))


def fits(question: Question, holding: Holding) -> bool:
    """Whether a model fits on machines."""
    try:
        return lay_out(question, holding).context >= question.least
    except Unsupported:
        return False
