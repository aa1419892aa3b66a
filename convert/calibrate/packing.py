"""Packs codes of few bits into words, as MLX stores them."""

from __future__ import annotations

import numpy as np

BLOCK_ROWS = 2048  # each bit takes a byte while it is packed


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [C, R] of R rows -> words [R, C * bits / 32], uint32. The codes of a row follow one another without a gap,
    the lowest bit of each first, so that some straddle two words."""
    rows = codes.T
    blocks = [pack_rows(rows[i : i + BLOCK_ROWS], bits) for i in range(0, len(rows), BLOCK_ROWS)]
    return np.concatenate(blocks)


def pack_rows(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [R, C] -> words [R, C * bits / 32]."""
    each = np.unpackbits(codes[..., None].astype(np.uint8), axis=-1, count=bits, bitorder="little")  # [R, C, bits]
    return np.packbits(each.reshape(len(codes), -1), axis=-1, bitorder="little").view("<u4")
