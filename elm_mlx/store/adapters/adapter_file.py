"""An adapter as it was read: low-rank sums by the names of their matrices, and what it was made for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from elm_mlx.config.base import HEAD_NAME, ModelConfig, Shape
from elm_mlx.models.lora import LowRank

CONFIG_FILE = "adapter_config.json"
FETCH_AGAIN = "Fetch it again, or train it again."


@dataclass(frozen=True)
class Base:
    """The model that an adapter was made for: its `name`, and the fingerprint of its `weights`
    (store.fingerprint.weights_fingerprint); None for what the file does not say."""

    name: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class AdapterFile:
    """An adapter: its LowRank beside each matrix, by the matrix's name without `.weight`, and the `base` that it was
    made for. Each `b` has been multiplied with the adapter's scale, and all numbers are finite, in float32."""

    path: Path
    base: Base
    arrays: Mapping[str, LowRank]

    @property
    def kind(self) -> str:
        """ "dora" where rows have learned lengths, else "lora"."""
        return "dora" if any(one.m is not None for one in self.arrays.values()) else "lora"

    @property
    def rank(self) -> int:
        """The largest rank of its sums."""
        return max(one.a.shape[1] for one in self.arrays.values())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its numbers and of the names of their matrices, whichever layout its files have."""
        digest = hashlib.sha256()
        for name, one in sorted(self.arrays.items()):
            for part in (one.a, one.b, one.m):
                digest.update(f"{name} {None if part is None else part.shape}\n".encode())
                digest.update(b"" if part is None else memoryview(mx.contiguous(part)))  # type: ignore[arg-type]
        return digest.hexdigest()

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return sum(one.a.size + one.b.size + (one.m.size if one.m is not None else 0) for one in self.arrays.values())


def matrices_of(config: ModelConfig) -> dict[str, Shape]:
    """The matrices of a model's layers, which an adapter may stand beside: (out, in) by name."""
    outside = {config.embedding_name, HEAD_NAME}
    shapes = config.weight_shapes().items()
    return {name.removesuffix(".weight"): shape for name, shape in shapes if len(shape) == 2 and name not in outside}
