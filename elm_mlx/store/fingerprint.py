"""Fingerprints of a model and of its tokenizer: what was computed with one means nothing with another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

from elm_mlx.config import ModelConfig
from elm_mlx.files import MAX_LARGE_BYTES, read_bytes, reading
from elm_mlx.store.load import runnable_weight_files
from elm_mlx.store.weights import DTYPE_NAMES, read_places

SAMPLE = 4096  # bytes from the beginning, the middle and the end of each tensor


class Digest(Protocol):
    """A hash that takes bytes."""

    def update(self, data: bytes, /) -> None:
        """Adds bytes."""
        ...


def model_fingerprint(directory: Path, config: ModelConfig) -> str:
    """SHA-256 of a model's configuration, and of every tensor's name, type, shape and some of its bytes: so it is quick
    at any size, and two models of one shape differ. The last rows are among them: a model that learned new tokens may
    differ in those alone. Raises as the functions that read weights."""
    digest = hashlib.sha256(repr(config).encode())
    add_weights(digest, directory)
    return digest.hexdigest()


def weights_fingerprint(directory: Path) -> str:
    """SHA-256 of a model's weights as `model_fingerprint` samples them, without the configuration: so it stays the same
    whatever a later version reads of that. Raises as the functions that read weights."""
    digest = hashlib.sha256()
    add_weights(digest, directory)
    return digest.hexdigest()


def add_weights(digest: Digest, directory: Path) -> None:
    """Adds the name, type, shape and some bytes of every tensor."""
    for file in sorted(runnable_weight_files(directory)):
        path = directory / file
        places = read_places(path)
        with reading(path), path.open("rb") as data:
            for name, (start, entry) in sorted(places.items()):
                digest.update(f"{name} {DTYPE_NAMES[entry.dtype]} {entry.shape}\n".encode())
                last = max(0, entry.nbytes - SAMPLE)
                for place in sorted({0, last // 2, last}):
                    data.seek(start + place)
                    digest.update(data.read(min(SAMPLE, entry.nbytes)))


def tokenizer_fingerprint(directory: Path) -> str:
    """SHA-256 of a model's tokenizer.json. Raises NotFound and BadCheckpoint."""
    return hashlib.sha256(read_bytes(directory / "tokenizer.json", MAX_LARGE_BYTES)).hexdigest()
