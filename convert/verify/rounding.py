"""Checks that stored weights are exactly the source's, rounded: no mistake can hide behind the rounding."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

import mlx.core as mx

from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.finite import WORDS, is_finite
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.store.stored_form import quantize


@dataclass(frozen=True)
class Weights:
    """Names of weights: those that are not the source's as they round, and those not finite, here and at the source."""

    altered: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    source_not_finite: list[str] = field(default_factory=list)


def compare_weights(
    stored: MutableMapping[str, mx.array],
    how: Quantization | None,
    dtypes: Mapping[str, mx.Dtype],
    source: Mapping[str, LazyTensor],
    keeps: bool = False,
) -> Weights:
    """Finds the weights in `stored` that are not the source's, cast to their type in `dtypes` and quantized by `how`,
    and those with NaN or infinity in them. With `keeps`, matrices that the source has packed must be kept so.

    One weight is in memory at a time, so each is removed from `stored`. Learned quantization alters weights, a
    conversion of ours only those that it calibrates.
    """
    found = Weights()
    for name, tensor in source.items():
        weight = tensor.read()
        if not is_finite(weight):
            found.source_not_finite.append(name)
        setting = how.of(name, tensor.shape) if how and name.removesuffix("weight") + "scales" in stored else None
        kept = tensor.packed if keeps and setting else None
        expected = kept.parts(name, dtypes[name]) if kept else quantize(name, weight.astype(dtypes[name]), setting)
        del weight
        here = {part: stored.pop(part) for part in expected}
        if not all(are_same(here[part], array) for part, array in expected.items()):
            found.altered.append(name)
        if not all(is_finite(array) for array in here.values() if is_float(array)):
            found.not_finite.append(name)
        mx.clear_cache()
    return found


def is_float(array: mx.array) -> bool:
    """Whether an array holds floats."""
    return mx.issubdtype(array.dtype, mx.floating)


def are_same(a: mx.array, b: mx.array) -> bool:
    """Whether two arrays of one shape are equal bit for bit, or by value where their types differ. All NaNs are one, as
    a cast may give any of them."""
    if a.dtype != b.dtype or not is_float(a):
        return bool(mx.array_equal(a, b).item())
    word = WORDS[a.dtype.size][0]
    same = a.view(word) == b.view(word)
    return bool(mx.all(same).item()) or bool(mx.all(same | (mx.isnan(a) & mx.isnan(b))).item())
