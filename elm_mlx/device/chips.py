"""How long a token takes on chips whose speeds others published, as a formula: a prediction, never a measurement.

    time of a token = host time + kernels * launch + bytes / (efficiency * bandwidth)

chips.json has what the formula needs. benchmarks/predictions.py writes it: launch and efficiency fit two published
rates of each chip exactly, and the other published rates of that chip, which are held out, say how wrong it is.
docs/predictions.md lists all of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from elm_mlx.config import ModelConfig

TWO_PASSES = 1024  # positions from which on attention is two kernels on Max and Ultra chips
DEEPEST = 2048  # positions: no published rate that was held out is deeper
HEADS = (64, 96, 128, 256)  # of which Metal's attention has kernels
FILE = Path(__file__).parent / "chips.json"


@dataclass(frozen=True)
class Work:
    """What a token takes: kernels launched, bytes read."""

    kernels: int
    nbytes: float


@dataclass(frozen=True)
class Chip:
    """A chip as the formula knows it: seconds of the host for a token, seconds of a launch, the share of the bandwidth
    that is reached, and the bandwidth in bytes a second."""

    host: float
    launch: float
    efficiency: float
    bandwidth: float

    def seconds(self, work: Work) -> float:
        """The time of a token."""
        return self.host + work.kernels * self.launch + work.nbytes / (self.efficiency * self.bandwidth)


@dataclass(frozen=True)
class Step:
    """A step of one request: bytes of `weights`, whether they are quantized, bits of other floats, and the `depth`, the
    positions that the cache holds."""

    weights: int
    float_bits: int
    quantized: bool
    depth: int


@dataclass(frozen=True)
class Prediction:
    """How fast elm-mlx may decode on a `chip`, one request, after `depth` positions. It was not measured.

    The same formula was tried on `rows_held_out` published rates of this chip: half of them were wrong by no more than
    `median_error`, and none by more than `worst_error` (0.1 is a tenth of the published rate).
    """

    chip: str
    tokens_per_s: float
    depth: int
    rows_held_out: int
    median_error: float
    worst_error: float

    def __str__(self) -> str:
        return (f"{self.tokens_per_s:.0f} tokens/s on {self.chip} at {self.depth:,} tokens (not measured; on "
                f"{self.rows_held_out} published rates error {self.median_error:.0%} in the median, "
                f"{self.worst_error:.0%} at worst)")  # fmt: skip


@cache
def known() -> dict[str, Any]:
    """What chips.json holds: `host_ms`, kernels of a `layer` by family and those `outside` layers, and the `chips`."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def chip_here() -> str | None:
    """The name of this machine's chip, as in "M1 Ultra"; None where MLX does not compute on Metal."""
    from elm_mlx.device.backend import mx

    if not mx.metal.is_available():
        return None
    return str(mx.device_info().get("device_name", "")).removeprefix("Apple ")


def predict(config: ModelConfig, step: Step, chip: str | None) -> Prediction | None:
    """Predicts how fast a model decodes on a chip. None where the formula was not tried: on a chip of which too
    little was published, deeper than DEEPEST, and for heads for which Metal has no kernel of attention."""
    facts = known()["chips"].get(chip)
    if facts is None or step.depth > DEEPEST or config.head_dim not in HEADS:
        return None
    if config.family not in known()["layer"]:
        return None
    host, launch, limit = known()["host_ms"] / 1e3, facts["launch_us"] / 1e6, facts["bandwidth_gb_s"] * 1e9
    seconds = Chip(host, launch, facts["efficiency"], limit).seconds(work_of(config, step))
    errors = facts["rows_held_out"], facts["median_error"], facts["worst_error"]
    return Prediction(str(chip), 1 / seconds, step.depth, *errors)


def work_of(config: ModelConfig, step: Step) -> Work:
    """What a step takes in elm-mlx: the kernels of its layers and those outside; all weights but an embedding that is
    no head, as often as layers share them, and the cache."""
    outside = known()["outside"]["quantized" if step.quantized else "plain"]
    kernels = config.num_layers * (known()["layer"][config.family] + (step.depth >= TWO_PASSES)) + outside
    return Work(kernels, step.weights * config.reads + config.kv_bytes_per_token(step.float_bits) * step.depth)
