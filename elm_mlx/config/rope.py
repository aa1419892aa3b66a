"""Rotary positions (RoPE): the base, and how the frequencies are scaled for longer contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from elm_mlx.config.values import MAX_MULTIPLIER, MAX_POSITIONS, Values
from elm_mlx.errors import BadCheckpoint


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions of base `theta`; `kind` says how the frequencies are scaled: default, linear or llama3."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    KINDS: ClassVar[tuple[str, ...]] = ("default", "linear", "llama3")
    KEYS: ClassVar[tuple[str, ...]] = (
        *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"),
        *("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    )

    UNSCALED: ClassVar[frozenset[str]] = frozenset({"rope_theta", "partial_rotary_factor"})  # these name no scaling

    @classmethod
    def from_values(cls, values: Values) -> RopeConfig:
        """Reads `rope_theta` + `rope_scaling`, or transformers 5's `rope_parameters`; two that disagree are refused.

        Raises BadCheckpoint for impossible values, and Unsupported for a kind or a parameter that elm-mlx does not run.
        """
        scalings = [values.section("rope_scaling"), values.section("rope_parameters")]
        for place in (values, *scalings):
            place.require("partial_rotary_factor", [1.0])
        for key, value in (item for scaling in scalings for item in scaling.raw.items()):
            if key not in cls.KEYS and value is not None:
                raise values.unsupported("RoPE parameter", key, cls.KEYS)
        theta = cls._theta(values, *scalings)
        readings = {cls._scaled(theta, scaling) for scaling in scalings if set(scaling.raw) - cls.UNSCALED}
        if len(readings) > 1:
            raise values.wrong("rope_scaling and rope_parameters disagree.", "Keep the right one.")
        return readings.pop() if readings else cls(theta)

    @staticmethod
    def _theta(*places: Values) -> float:
        """The base, from any of the places that may name it. Raises BadCheckpoint for two different ones."""
        bases = {place.positive("rope_theta", 10_000.0) for place in places if place.get("rope_theta") is not None}
        if len(bases) > 1:
            raise BadCheckpoint(f"{places[0].where} names two RoPE bases, {' and '.join(map(str, sorted(bases)))}. "
                                "Keep the one that the model was trained with.")  # fmt: skip
        return bases.pop() if bases else 10_000.0

    @classmethod
    def _scaled(cls, theta: float, scaling: Values) -> RopeConfig:
        kind = cls._kind(scaling)
        if kind == "default":
            return cls(theta)
        if scaling.get("factor") is None:
            raise scaling.wrong(f"{kind} RoPE scaling has no factor.")
        factor = scaling.positive("factor", 1.0, MAX_MULTIPLIER)
        return cls(theta, kind, factor) if kind == "linear" else cls._llama3(theta, factor, scaling)

    @classmethod
    def _kind(cls, scaling: Values) -> str:
        """The one kind that a scaling names; "type" is an alias of "rope_type"."""
        named = [value for key in ("rope_type", "type") if (value := scaling.get(key)) is not None]
        if not named or any(kind != named[0] for kind in named):
            raise scaling.wrong(f"RoPE scaling names {len(named)} kinds in rope_type and type, not one.")
        if named[0] not in cls.KINDS:
            raise scaling.unsupported("RoPE scaling", named[0], cls.KINDS)
        return str(named[0])

    @classmethod
    def _llama3(cls, theta: float, factor: float, scaling: Values) -> RopeConfig:
        low = scaling.positive("low_freq_factor", 1.0, MAX_MULTIPLIER)
        high = scaling.positive("high_freq_factor", 4.0, MAX_MULTIPLIER)
        if low >= high:
            raise scaling.wrong(f"low_freq_factor {low} is not below high_freq_factor {high}.")
        original = scaling.integer("original_max_position_embeddings", 8192, MAX_POSITIONS)
        return cls(theta, "llama3", factor, low, high, original)

    def to_dict(self) -> dict[str, Any]:
        """The scaling as `rope_scaling` holds it; empty for plain RoPE."""
        if self.kind == "default":
            return {}
        plain = {"rope_type": self.kind, "factor": self.factor}
        if self.kind == "linear":
            return plain
        return plain | {
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": self.original_context,
        }
