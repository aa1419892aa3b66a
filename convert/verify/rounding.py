"""Checks that stored weights are exactly the source's, rounded: no mistake can hide behind the rounding."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import mlx.core as mx

from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.store.stored_form import quantize


def find_altered(
    stored: MutableMapping[str, mx.array],
    how: Quantization | None,
    dtypes: Mapping[str, mx.Dtype],
    source: Mapping[str, LazyTensor],
) -> list[str]:
    """Finds the weights in `stored` that are not the source's, cast to their type in `dtypes` and quantized by `how`.

    One weight is in memory at a time, so each is removed from `stored`. Learned quantization alters weights, a
    conversion of ours none.
    """
    return [name for name, tensor in source.items() if not is_rounded(name, stored, how, dtypes[name], tensor)]


def is_rounded(
    name: str, stored: MutableMapping[str, mx.array], how: Quantization | None, dtype: mx.Dtype, tensor: LazyTensor
) -> bool:
    """Whether one weight in `stored`, from which it is removed, is exactly the source's, cast and quantized."""
    setting = how.of(name, tensor.shape) if how and name.removesuffix("weight") + "scales" in stored else None
    weight = tensor.read().astype(dtype)
    expected = quantize(name, weight, setting)
    same = [mx.array_equal(array, stored.pop(part)).item() for part, array in expected.items()]
    mx.clear_cache()
    return all(same)
