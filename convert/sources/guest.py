"""Checkpoints of other families: mlx-lm's classes say which tensors their models have, and make them of the source's.

Unlike other sources, one of these is in memory as a whole before its end is written: the classes turn and join tensors
as they like. So one that does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.config import GuestConfig, Shape
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.form import Form
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.device.memory import memory_limit
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotEnoughMemory, Unsupported
from elm_mlx.files import readable_size
from elm_mlx.store.guests import counted
from elm_mlx.store.mlx_lm_classes import network_for, sanitized
from elm_mlx.store.weight_files import WeightFiles, some
from elm_mlx.store.weights import gather, read_arrays

STAYS = " float32"  # no name of a matrix: some arrays must not be cast


def open_guest(
    where: Path, directory: Path, weights: WeightFiles, config: GuestConfig
) -> tuple[GuestConfig, dict[str, LazyTensor]]:
    """(the configuration with the shapes of all tensors, the tensors by mlx-lm's names). Raises Unsupported for weights
    that are quantized or in no safetensors, NotEnoughMemory, and BadCheckpoint for tensors that are not the model's."""
    if config.quantization:
        raise Unsupported(f"{where} is quantized already, and a {config.model_type} is converted from plain weights "
                          "alone. Name the model that it was made from, or run it as it is.")  # fmt: skip
    if not weights.are_safetensors:
        raise Unsupported(f"{where} has no safetensors, and a {config.model_type} is converted from these alone. "
                          "Take the model's safetensors.")  # fmt: skip
    found = gather(directory, weights.files, read_arrays)
    refuse_large(where, sum(entry.nbytes for entry, _ in found.values()))
    counted_config = counted(directory, config, weights.files)
    network = network_for(counted_config)
    arrays = sanitized(counted_config, network.module, {name: array for name, (_, array) in found.items()})
    parts = parameters_of(network.module)
    check_names(where, parts, arrays)
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    tensors = {name: LazyTensor(shapes[name], array.dtype, lambda array=array: evaluated(array))  # type: ignore[misc]
               for name, array in arrays.items()}  # fmt: skip
    return replace(counted_config, shapes=shapes, settings=settings_of(network.module)), tensors


def refuse_large(where: Path, nbytes: int) -> None:
    """Raises NotEnoughMemory, with the numbers, for weights that do not fit in this machine's memory."""
    if nbytes > (available := memory_limit()):
        raise NotEnoughMemory(
            f"Converting {where} takes its {readable_size(nbytes)} of weights in memory, and this machine has "
            f"{readable_size(available)} for them.",
            "Close other programs, take a larger machine, or a model that somebody has converted.",
            nbytes, available,
        )  # fmt: skip


def evaluated(array: mx.array) -> mx.array:
    """An array that is in memory, row by row."""
    array = mx.contiguous(array)
    mx.eval(array)
    return array


def parameters_of(module: Any) -> dict[str, mx.array]:
    """A network's arrays by name."""
    from mlx.utils import tree_flatten

    return dict(tree_flatten(module.parameters()))


def check_names(where: Path, parts: Mapping[str, mx.array], arrays: Mapping[str, mx.array]) -> None:
    """Raises BadCheckpoint where the tensors are not exactly those of a network, in its shapes."""
    lacking, beyond = sorted(set(parts) - set(arrays)), sorted(set(arrays) - set(parts))
    other = [name for name in parts if name in arrays and parts[name].shape != arrays[name].shape]
    wrong = (("lacks", lacking), ("holds what its model does not have:", beyond), ("has in another shape", other))
    for what, names in wrong:
        if names:
            raise BadCheckpoint(f"{where} {what} {some(names)}. Fetch it again.")


def settings_of(module: Any) -> dict[str, Any]:
    """What mlx-lm's class says of each matrix that can be quantized, by its name without ".weight": true, false, or a
    setting of its own; and false for all other arrays with rows."""
    wish = getattr(module, "quant_predicate", None)
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        if "weight" in part and part.weight.ndim > 1:
            can = hasattr(part, "to_quantized")
            found[path] = can and (wish(path, part) if wish else True)
    keeps = getattr(module, "cast_predicate", None)
    if keeps and not all(keeps(name) for name in parameters_of(module)):
        found[STAYS] = True
    return found


def check_form(form: Form, config: GuestConfig, dtype: str) -> None:
    """Raises InvalidRequest for a form that conversions of guests do not have."""
    for name in ("recipe", "target_bits", "calibrate"):
        if getattr(form, name):
            raise InvalidRequest(f"{name} is for llama and openelm, and this model is a {config.model_type}.",
                                 f"Leave {{{name}}} out, and give {{bits}} or {{mode}}.")  # fmt: skip
    if config.settings.get(STAYS) and dtype != "float32":
        raise InvalidRequest(f"A {config.model_type} has weights that must stay in float32.", "Give {dtype=float32}.")


def quantization_of(setting: Quantization | None, config: GuestConfig) -> Quantization | None:
    """A setting for the matrices that mlx-lm would quantize, with those of their own that its class wishes."""
    if setting is None:
        return None
    own: dict[str, Quantization | None] = {}
    for stem, wish in ((stem, wish) for stem, wish in config.settings.items() if stem != STAYS):
        shape: Shape = config.shapes.get(f"{stem}.weight", (1,))
        if isinstance(wish, Mapping):
            own[stem] = Quantization.from_dict(wish)
        elif not wish or shape[-1] % setting.group_size:
            own[stem] = None
    return replace(setting, overrides=own)
