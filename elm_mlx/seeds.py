"""Seeds that are made of a seed and of what it is for: a pure function, so that an answer can be had again alone."""

from __future__ import annotations

import hashlib
import json


def hash_of(seed: int, part: int | str) -> bytes:
    """SHA-256 over the JSON text [seed, part]."""
    return hashlib.sha256(json.dumps([seed, part]).encode()).digest()


def seed_of(seed: int, part: int | str) -> int:
    """The seed for one part of what a seed is for: the first 8 bytes of `hash_of`, as a whole number, the highest byte
    first. The part is the number of a completion, from 0, or the id of a line in a file of requests."""
    return int.from_bytes(hash_of(seed, part)[:8])
