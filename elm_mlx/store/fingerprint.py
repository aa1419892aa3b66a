"""Fingerprints of a model and of its tokenizer: what was computed with one means nothing with another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from elm_mlx.config import ModelConfig
from elm_mlx.files import MAX_LARGE_BYTES, read_bytes, reading
from elm_mlx.store.load import runnable_weight_files
from elm_mlx.store.weights import DTYPE_NAMES, read_places

SAMPLE = 4096  # bytes from the middle of each tensor


def model_fingerprint(directory: Path, config: ModelConfig) -> str:
    """SHA-256 of a model's configuration, and of every tensor's name, type, shape and some bytes from its middle: so it
    is quick at any size, and two models of one shape differ. Raises as the functions that read weights."""
    digest = hashlib.sha256(repr(config).encode())
    for file in sorted(runnable_weight_files(directory)):
        path = directory / file
        places = read_places(path)
        with reading(path), path.open("rb") as data:
            for name, (start, entry) in sorted(places.items()):
                digest.update(f"{name} {DTYPE_NAMES[entry.dtype]} {entry.shape}\n".encode())
                data.seek(start + max(0, entry.nbytes - SAMPLE) // 2)
                digest.update(data.read(min(SAMPLE, entry.nbytes)))
    return digest.hexdigest()


def tokenizer_fingerprint(directory: Path) -> str:
    """SHA-256 of a model's tokenizer.json. Raises NotFound and BadCheckpoint."""
    return hashlib.sha256(read_bytes(directory / "tokenizer.json", MAX_LARGE_BYTES)).hexdigest()
