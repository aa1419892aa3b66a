"""A model of any size, run from disk with one layer in memory at a time.

It computes in float32 with the weights as they are stored, quantized ones expanded.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.config import GuestConfig, ModelConfig
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.keymap import Matched, match
from elm_mlx.convert.sources import Source
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import Unsupported
from elm_mlx.models import MODELS
from elm_mlx.models.matrices import Matrix
from elm_mlx.models.parameters import Parameters
from elm_mlx.store.conversion_record import calibration_of, kept_of, read_record, rounded_names
from elm_mlx.store.load import load_arrays, read_config
from elm_mlx.store.stored_form import expand
from elm_mlx.store.tensors import stored_dtype


@dataclass(frozen=True)
class ModelOnDisk:
    """A model on disk: how it is quantized, and in `dtypes` the type of each weight's floats.

    `tensors()` opens its weights by name, plain and none of them read yet. An MLX directory has `stored()`, which opens
    them as they are stored, and is `rounded` where its conversion.json says that elm-mlx rounded them, those excepted
    that it `calibrated`, and `keeps` those that its source had in few bits; any other source has `originals`, its
    tensors on disk.
    """

    where: Path
    config: ModelConfig
    quantization: Quantization | None
    dtypes: Mapping[str, mx.Dtype]
    tensors: Callable[[], MutableMapping[str, mx.array]]
    stored: Callable[[], MutableMapping[str, mx.array]] = dict
    originals: Mapping[str, LazyTensor] = field(default_factory=dict)
    rounded: bool = False
    calibrated: frozenset[str] = frozenset()
    keeps: bool = False

    def hidden(self, windows: Sequence[Sequence[int]], step: Callable[[], None]) -> mx.array:
        """The normalised states [N, E] of all positions of the windows of ids; `step` is called after each layer."""
        states = [mx.array([window]) for window in windows]
        for stage in MODELS[type(self.config)].stages(self.config, self._parameters()):
            for i, state in enumerate(states):
                states[i] = stage(state)
                mx.eval(states[i])
            del stage  # before the next is built
            mx.clear_cache()  # else MLX keeps the freed buffers of every size met
            step()
        return mx.concatenate([state[0] for state in states])

    def head(self) -> Matrix:
        """The output matrix: states [N, E] to logits [N, V]."""
        family = MODELS[type(self.config)]
        return self._parameters().linear(family.EMBEDDING if self.config.tied else family.HEAD)

    def _parameters(self) -> Parameters:
        return Parameters(self.tensors(), None, mx.float32, mx.eval)


class UnreadTensors(UserDict[str, Any]):
    """Tensors on disk as a mapping to arrays: each is read when it is looked up."""

    def __getitem__(self, name: str) -> mx.array:
        array: mx.array = self.data[name].read()
        return array


def refuse_guest(config: ModelConfig) -> None:
    """Raises Unsupported for a model of mlx-lm's classes, which cannot be computed a layer at a time."""
    if isinstance(config, GuestConfig):
        raise Unsupported(f"Verifying is for llama and openelm, and this model is a {config.model_type}.",
                          "It converts without {verify}: then compare the answers of both.")  # fmt: skip


def open_directory(where: Path) -> ModelOnDisk:
    """Opens an MLX directory, quantized or not. Raises NotFound, BadCheckpoint, Unsupported."""
    config = read_config(where)
    refuse_guest(config)
    arrays, _ = load_arrays(where, config)
    how = config.quantization if any(name.endswith(".scales") for name in arrays) else None

    def stored() -> dict[str, mx.array]:
        return load_arrays(where, config)[0]

    def tensors() -> dict[str, mx.array]:
        return expand(stored(), how, mx.float32) if how else stored()

    record = read_record(where)
    # of a merged model no single source has the weights
    rounded = "elm_mlx" in record and "options" in record and "merged" not in record
    return ModelOnDisk(
        where, config, how, dtypes(arrays, config), tensors, stored,
        rounded=rounded, calibrated=calibrated_names(record, arrays), keeps=kept_of(record) is not None,
    )  # fmt: skip


def calibrated_names(record: Mapping[str, Any], arrays: Mapping[str, mx.array]) -> frozenset[str]:
    """The weights that were calibrated by a conversion.json: the quantized ones that it does not except."""
    calibration = calibration_of(record)
    if calibration is None:
        return frozenset()
    quantized = {f"{name.removesuffix('scales')}weight" for name in arrays if name.endswith(".scales")}
    return frozenset(quantized - rounded_names(calibration))


def dtypes(arrays: dict[str, mx.array], config: ModelConfig) -> dict[str, mx.Dtype]:
    """The floating type of each weight: its own, that of its scales, or where these are no floats the model's."""
    usual = stored_dtype(arrays, config)
    floats = {name: array.dtype for name, array in arrays.items() if mx.issubdtype(array.dtype, mx.floating)}
    scales = {name: f"{name.removesuffix('weight')}scales" for name in config.weight_shapes()}
    return {name: floats.get(name, floats.get(scales[name], usual)) for name in scales}


def open_original(opened: Source) -> ModelOnDisk:
    """The model of an open checkpoint in any layout that we convert. Raises BadCheckpoint for tensors that do not fit
    its configuration."""
    return source_model(opened, match(opened.config, opened.family_layout, opened.tensors, opened.where))


def source_model(source: Source, matched: Matched) -> ModelOnDisk:
    """The model of an open checkpoint; quantized weights are expanded when they are read."""
    tensors = matched.tensors
    types = {name: tensor.dtype for name, tensor in tensors.items()}
    return ModelOnDisk(source.where, source.config, None, types, lambda: UnreadTensors(tensors), originals=tensors)
