"""How the keys and values of one request are held, and what bytes that takes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

MARGIN = 256  # positions; a chat's next turn encodes the end of the last answer anew; chosen, not measured
GROUP_SIZES = (64, 32)  # numbers that share a scale and a bias, of the sizes that MLX quantizes by


@dataclass(frozen=True)
class CacheKind:
    """All positions in floats, unless: a `window` keeps so many of the last positions, and `sinks` of the first, in a
    ring; `key_bits` and `value_bits` quantize what is held. Only queries before position `reach` read the sinks (None:
    all do): the distance to them grows. So many positions as the `margin` stay in memory beyond the window: they may be
    trimmed, or written at once, and no query reads them."""

    window: int | None = None
    sinks: int = 0
    key_bits: int | None = None
    value_bits: int | None = None
    margin: int = MARGIN
    reach: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether all positions are held in floats."""
        return self.window is None and self.key_bits is None

    def forgets(self, positions: int) -> int:
        """How many of so many positions the last one does not see."""
        if self.window is None:
            return 0
        sinks = 0 if self.reach is not None and positions > self.reach else self.sinks
        return max(0, positions - self.window - sinks)

    def columns(self, positions: int) -> int:
        """How many columns the buffers have at most, where a request has so many positions."""
        return positions if self.window is None else min(positions, self.sinks + self.window + self.margin)

    def bytes_of(self, positions: int, float_bytes: int, head_dim: int, float_bits: int) -> int:
        """The bytes that so many positions take at most, in a model whose positions take `float_bytes` each in floats
        of `float_bits`, in heads of `head_dim`."""
        columns = self.columns(positions)
        if self.key_bits is None or self.value_bits is None:
            return columns * float_bytes
        bits = sum(packed_bits(head_dim, bits, float_bits) for bits in (self.key_bits, self.value_bits))
        share = Fraction(bits, 2 * head_dim * float_bits)
        return -(-columns * float_bytes * share.numerator // share.denominator)


PLAIN = CacheKind()


def packed_bits(head_dim: int, bits: int, float_bits: int) -> int:
    """The bits of memory that one head's key or value takes in `bits` each, with its scales and biases."""
    width = padded(head_dim)
    return width * bits + width // group_size(width) * 2 * float_bits


def group_size(width: int) -> int:
    """How many numbers of a head share a scale: 64 where its `width` divides by that, else 32."""
    return next(size for size in GROUP_SIZES if width % size == 0)


def padded(head_dim: int) -> int:
    """The width of a head that MLX can quantize: the next multiple of 32. What is added are zeros."""
    least = GROUP_SIZES[-1]
    return -(-head_dim // least) * least
