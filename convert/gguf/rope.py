"""Rotary positions as GGUF says them: a base, a kind of scaling, or Llama 3's factors, one for each pair.

Llama 3's scaling is in no key of the metadata: llama.cpp's converter computes the factors by which the frequencies are
divided, and writes them as the tensor rope_freqs.weight (convert_hf_to_gguf.py, LlamaModel.generate_extra_tensors).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from elm_mlx.config.values import MAX_MULTIPLIER, MAX_POSITIONS, Values
from elm_mlx.convert.gguf.header import StoredTensor
from elm_mlx.errors import Unsupported

FACTORS = "rope_freqs.weight"
LOW, HIGH = 1.0, 4.0  # of every model with Llama 3's scaling that is known
ORIGINALS = tuple(2**power for power in range(5, 21))  # contexts before scaling; all known models have 8192
TOLERANCE = 1e-4  # relative; float32 was used to compute the factors
OTHERS = ("rope_factors_long.weight", "rope_factors_short.weight")  # of LongRoPE


def scaling(values: Values, stored: Mapping[str, StoredTensor], head_dim: int) -> dict[str, Any] | None:
    """The scaling as config.json says it, None where there is none. `values` are the keys of the architecture without
    its name. Raises BadCheckpoint, Unsupported."""
    if found := [name for name in OTHERS if name in stored]:
        raise Unsupported(f"{values.where} scales its positions by {found[0]} (LongRoPE), which elm-mlx does not run.")
    factor = linear_factor(values)
    by_pair = from_factors(values, stored[FACTORS], head_dim) if FACTORS in stored else None
    if by_pair and factor != 1:
        raise Unsupported(f"{values.where} scales its positions twice, by rope.scaling.factor {factor:g} and by "
                          f"{FACTORS}, which elm-mlx does not run.")  # fmt: skip
    return by_pair or (None if factor == 1 else {"rope_type": "linear", "factor": factor})


def linear_factor(values: Values) -> float:
    """By what all positions are divided; 1 where they are not. Raises BadCheckpoint, Unsupported."""
    values.require("rope.scaling.type", ["none", "linear"])
    old = values.positive("rope.scale_linear", 1.0, MAX_MULTIPLIER)
    factor = values.positive("rope.scaling.factor", old, MAX_MULTIPLIER)
    return 1.0 if values.get("rope.scaling.type") == "none" else factor


def from_factors(values: Values, stored: StoredTensor, head_dim: int) -> dict[str, Any] | None:
    """Llama 3's scaling that has these factors. Raises BadCheckpoint for what are no factors, Unsupported for those of
    another scaling."""
    if stored.shape != (head_dim // 2,) or stored.kind.floats != "<f4":
        raise values.wrong(f"{FACTORS} is not a list of {head_dim // 2} float32 numbers.")
    factors = np.ndarray(stored.shape, "<f4", stored.data).astype(np.float64)
    if not (np.isfinite(factors).all() and (factors > 0).all() and factors.max() <= MAX_MULTIPLIER):
        raise values.wrong(f"{FACTORS} has numbers that are no factors.")
    if (factors == 1).all():
        return None
    theta, factor = values.positive("rope.freq_base", 10_000.0), round(float(factors.max()), 4)
    said = values.integer("rope.scaling.original_context_length", 8192, MAX_POSITIONS)
    for original in (said, *ORIGINALS):
        if np.allclose(llama3_factors(theta, head_dim, factor, original), factors, rtol=TOLERANCE, atol=0):
            return {"rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
                    "original_max_position_embeddings": original}  # fmt: skip
    raise Unsupported(f"{values.where}: the factors in {FACTORS} are not those of Llama 3's scaling of positions, the "
                      "only one with factors that elm-mlx runs.")  # fmt: skip


def llama3_factors(theta: float, head_dim: int, factor: float, original: int) -> np.ndarray:
    """By what Llama 3's scaling divides the frequency of each pair: [head_dim / 2]. Source: transformers
    modeling_rope_utils `llama3`."""
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = original * frequencies / (2 * math.pi)
    kept = np.clip((turns - LOW) / (HIGH - LOW), 0, 1)
    return np.asarray(1 / ((1 - kept) / factor + kept))
