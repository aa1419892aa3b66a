"""The types of GGUF's tensors: floats, and blocks of few bits, each as numbers, scales and offsets.

Formats: ggml-org/llama.cpp ggml/src/ggml-common.h (`block_q4_0` and so on) and ggml-quants.c (`dequantize_row_*`). In
each, a value is scale * code + offset: the codes are whole numbers from 0 on, scale and offset those of its group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""uint8 codes [N, groups, length], float32 scales and offsets [N, groups]."""


@dataclass(frozen=True)
class Kind:
    """A type: its name, how many elements make a block of how many bytes, and for blocks of few bits how they are taken
    apart, uint8 [N, nbytes] to Parts, and how many `bits` each code has; else `floats`, NumPy's type of the bytes."""

    name: str
    elements: int
    nbytes: int
    floats: str = ""
    bits: int = 0
    parts: Callable[[np.ndarray], Parts] | None = None


def halves(raw: np.ndarray, begin: int) -> np.ndarray:
    """The float16 at a byte of each block, as float32 [N, 1]."""
    return np.ascontiguousarray(raw[:, begin : begin + 2]).view("<f2").astype(np.float32)


def nibbles(raw: np.ndarray, length: int) -> np.ndarray:
    """Bytes [N, groups * length] to their lower halves, then their upper ones, group by group: [N, 2 * groups,
    length]."""
    grouped = raw.reshape(len(raw), -1, 1, length)
    codes = np.concatenate([grouped & np.uint8(15), grouped >> np.uint8(4)], axis=2)
    return codes.reshape(len(raw), -1, length)


def q4_0(raw: np.ndarray) -> Parts:
    """d, 16 bytes of which the lower halves come first; d * (code - 8)."""
    d = halves(raw, 0)
    return nibbles(raw[:, 2:], 16).reshape(-1, 1, 32), d, -8 * d


def q4_1(raw: np.ndarray) -> Parts:
    """d, m, 16 bytes; d * code + m."""
    return nibbles(raw[:, 4:], 16).reshape(-1, 1, 32), halves(raw, 0), halves(raw, 2)


def five_bits(raw: np.ndarray, begin: int) -> np.ndarray:
    """The codes of a block whose fifth bits, four bytes, stand before the others: [N, 1, 32]."""
    fifth = np.unpackbits(np.ascontiguousarray(raw[:, begin : begin + 4]), axis=1, bitorder="little")
    return nibbles(raw[:, begin + 4 :], 16).reshape(-1, 1, 32) | (fifth << np.uint8(4))[:, None]


def q5_0(raw: np.ndarray) -> Parts:
    """d, the fifth bits, 16 bytes; d * (code - 16)."""
    d = halves(raw, 0)
    return five_bits(raw, 2), d, -16 * d


def q5_1(raw: np.ndarray) -> Parts:
    """d, m, the fifth bits, 16 bytes; d * code + m."""
    return five_bits(raw, 4), halves(raw, 0), halves(raw, 2)


def q8_0(raw: np.ndarray) -> Parts:
    """d, 32 signed bytes; d * byte. A signed byte is the code less 128."""
    d = halves(raw, 0)
    return (raw[:, 2:] ^ np.uint8(128)).reshape(-1, 1, 32), d, -128 * d


def six_bit_scales(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scales, offsets) [N, 8] of a block whose first bytes are d, dmin, and eight numbers of six bits for each in
    twelve bytes: four low ones whole, and of four high ones the upper two bits, lie in the first eight bytes."""
    d, dmin = halves(raw, 0), halves(raw, 2)
    first, second, rest = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    low, high = np.uint8(63), np.uint8(48)
    scales = np.concatenate([first & low, (rest & np.uint8(15)) | (first >> np.uint8(2) & high)], axis=1)
    offsets = np.concatenate([second & low, (rest >> np.uint8(4)) | (second >> np.uint8(2) & high)], axis=1)
    return d * scales.astype(np.float32), -(dmin * offsets.astype(np.float32))


def q4_k(raw: np.ndarray) -> Parts:
    """d, dmin, scales and offsets, 128 bytes: lower halves of 32, then upper ones."""
    return nibbles(raw[:, 16:], 32), *six_bit_scales(raw)


def q5_k(raw: np.ndarray) -> Parts:
    """d, dmin, scales and offsets, 32 bytes with the fifth bits (bit i is that of group i), 128 bytes as in Q4_K."""
    codes, fifth = nibbles(raw[:, 48:], 32), raw[:, 16:48]
    for group in range(8):
        codes[:, group] |= (fifth >> np.uint8(group) & np.uint8(1)) << np.uint8(4)
    return codes, *six_bit_scales(raw)


def q6_k(raw: np.ndarray) -> Parts:
    """128 bytes (lower halves of 64, then upper ones), 64 bytes with two bits more for each code, 16 signed scales, d;
    groups of 16; d * scale * (code - 32)."""
    codes, more = nibbles(raw[:, :128], 64).reshape(-1, 2, 4, 32), raw[:, 128:192].reshape(-1, 2, 32)
    for quarter in range(4):
        codes[:, :, quarter] |= (more >> np.uint8(2 * quarter) & np.uint8(3)) << np.uint8(4)
    scales = halves(raw, 208) * np.ascontiguousarray(raw[:, 192:208]).view(np.int8).astype(np.float32)
    return codes.reshape(-1, 16, 16), scales, -32 * scales


# By the numbers of ggml.h's `ggml_type`.
KINDS = {
    0: Kind("F32", 1, 4, "<f4"),
    1: Kind("F16", 1, 2, "<f2"),
    30: Kind("BF16", 1, 2, "<u2"),
    2: Kind("Q4_0", 32, 18, bits=4, parts=q4_0),
    3: Kind("Q4_1", 32, 20, bits=4, parts=q4_1),
    6: Kind("Q5_0", 32, 22, bits=5, parts=q5_0),
    7: Kind("Q5_1", 32, 24, bits=5, parts=q5_1),
    8: Kind("Q8_0", 32, 34, bits=8, parts=q8_0),
    12: Kind("Q4_K", 256, 144, bits=4, parts=q4_k),
    13: Kind("Q5_K", 256, 176, bits=5, parts=q5_k),
    14: Kind("Q6_K", 256, 210, bits=6, parts=q6_k),
}
NAMES = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
} | {number: kind.name for number, kind in KINDS.items()}  # fmt: skip
