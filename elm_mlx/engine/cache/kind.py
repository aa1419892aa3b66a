"""How the keys and values of one request are held."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheKind:
    """All positions in floats, unless: a `window` keeps so many of the last positions, and `sinks` of the first, in a
    ring; `key_bits` and `value_bits` quantize what is held."""

    window: int | None = None
    sinks: int = 0
    key_bits: int | None = None
    value_bits: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether all positions are held in floats."""
        return self == PLAIN


PLAIN = CacheKind()
