"""Packed matrices that stay as their source has them: the settings that say so, and what is lost by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import sqrt
from typing import Any

import mlx.core as mx

from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.store.stored_form import expand, stored_parts


def kept_quantization(tensors: Mapping[str, LazyTensor]) -> Quantization | None:
    """The quantization that keeps every packed matrix among `tensors` as it is, and all other weights plain: the
    setting that most of them have, and the others' as overrides. None where nothing is packed."""
    packed = {name: tensor.packed.setting for name, tensor in tensors.items() if tensor.packed}
    if not packed:
        return None
    kinds = Counter((one.bits, one.group_size, one.mode) for one in packed.values())
    usual = Quantization(*kinds.most_common(1)[0][0])
    other = {
        name.removesuffix(".weight"): packed.get(name)
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and packed.get(name) != usual
    }
    return replace(usual, overrides=other)


class Kept:
    """Reads packed matrices as they will be stored, and measures how far each is from the source's own numbers: the
    root of the mean square of the difference, over that of the numbers."""

    def __init__(self, tensors: Mapping[str, LazyTensor], dtype: mx.Dtype) -> None:
        self.tensors, self.dtype = {name: tensor for name, tensor in tensors.items() if tensor.packed}, dtype
        self.errors: dict[str, float] = {}

    def readers(self) -> dict[str, Callable[[], dict[str, mx.array]]]:
        """A function for each matrix that reads what it is stored as, by tensor."""
        return {name: lambda name=name: self.read(name) for name in self.tensors}  # type: ignore[misc]

    def read(self, name: str) -> dict[str, mx.array]:
        """Reads one matrix, as it will be stored."""
        tensor = self.tensors[name]
        assert tensor.packed
        parts = tensor.packed.parts(name, self.dtype)
        expected = stored_parts(name, tensor.shape, tensor.packed.setting, self.dtype)
        assert {part: (array.shape, array.dtype) for part, array in parts.items()} == {
            part: (entry.shape, entry.dtype) for part, entry in expected.items()
        }, f"{name} is packed in another form than its setting says"
        plain = expand(parts, tensor.packed.setting, mx.float32)[name]
        self.errors[name] = relative_error(plain, tensor.blocks())
        return parts

    def record(self) -> dict[str, Any]:
        """What conversion.json says of the matrices: how many, and which one lost most. Those that a killed run wrote
        are measured now."""
        for name in self.tensors:
            if name not in self.errors:
                self.read(name)
        worst = max(self.errors, key=lambda name: self.errors[name])
        return {"matrices": len(self.errors), "largest_error": self.errors[worst], "of": worst}


def relative_error(plain: mx.array, blocks: Iterable[mx.array]) -> float:
    """How far a matrix [out, in] is from the one whose rows come in `blocks`; 0.0 where all is equal."""
    begin, wrong, whole = 0, mx.array(0.0), mx.array(0.0)
    for rows in blocks:
        there = rows.astype(mx.float32)
        here = plain[begin : begin + len(there)]
        wrong += mx.square(here - there).sum()
        whole += mx.square(there).sum()
        mx.eval(wrong, whole)
        begin += len(there)
    lost, size = float(wrong), float(whole)
    return sqrt(lost / size) if size else sqrt(lost)
