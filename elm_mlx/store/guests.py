"""Guests from their files: what of a model that mlx-lm's classes compute is read, checked and given to these.

No code of a checkpoint is run: config.json's `auto_map` and `model_file` mean nothing here, and no .py file is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.arguments import Progress
from elm_mlx.config.guest import GuestConfig
from elm_mlx.device.execution import Execution
from elm_mlx.device.memory import check_memory
from elm_mlx.errors import BadCheckpoint
from elm_mlx.models.guest import Guest
from elm_mlx.store.mlx_lm_classes import expand, network_for, refused, sanitized
from elm_mlx.store.tensors import runnable_weight_files
from elm_mlx.store.weight_files import weight_files
from elm_mlx.store.weights import Entry, gather, read_arrays, read_header

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embeddings.weight", "tok_embeddings.weight", "embed_in.weight")


def counted(directory: Path, config: GuestConfig, files: list[str]) -> GuestConfig:
    """A guest's configuration with its parameters, and its vocabulary where config.json names none, from the headers
    of its weights. Raises BadCheckpoint where neither tells the vocabulary."""
    entries = gather(directory, files, read_header)
    count = sum(elements(name, entries, config) for name in entries)
    vocabulary = config.vocab_size or next((e.shape[0] for n, e in entries.items() if n.endswith(EMBEDDINGS)), 0)
    if not vocabulary:
        raise BadCheckpoint(f"{directory / 'config.json'} has no vocab_size, and no weight is an embedding. Fetch the "
                            "model again.")  # fmt: skip
    return replace(config, parameters=count, vocab_size=vocabulary)


def stored_guest(directory: Path) -> tuple[mx.Dtype, int, bool]:
    """(the floating type of a guest's weights, their bytes, whether some are quantized), from the headers alone."""
    files = weight_files(directory).files
    entries, arrays = gather(directory, files, read_header), gather(directory, files, read_arrays)
    dtype = stored_dtype({name: array for name, (_, array) in arrays.items()})
    return dtype, sum(entry.nbytes for entry in entries.values()), any(name.endswith(".scales") for name in entries)


def elements(name: str, entries: Mapping[str, Entry], config: GuestConfig) -> int:
    """How many weights a stored tensor stands for: those of a quantized matrix are packed, and its scales are none."""
    stem, _, part = name.rpartition(".")
    scales = entries.get(f"{stem}.scales")
    if scales is None or f"{stem}.weight" not in entries:
        return prod(entries[name].shape)
    if part != "weight":
        return prod(entries[name].shape) if part == "bias" else 0
    own = config.quantization.setting(stem) if config.quantization else None
    group = own.group_size if own else 64
    return prod(scales.shape) * group


def load_guest(
    directory: Path, config: GuestConfig, execution: Execution, progress: Progress | None, force: bool
) -> Guest:
    """Brings a guest's weights into memory, in mlx-lm's classes. Raises BadCheckpoint where they do not take these
    files, Unsupported where they cannot be imported, NotEnoughMemory unless `force`."""
    found = gather(directory, runnable_weight_files(directory), read_arrays)
    nbytes = sum(entry.nbytes for entry, _ in found.values())
    dtype = execution.dtype or stored_dtype({name: array for name, (_, array) in found.items()})
    if not force:
        as_stored = config.quantization is not None and not execution.expand
        weights = nbytes if as_stored else config.parameter_count * dtype.size
        check_memory(directory, config, weights, 8 * dtype.size, held=mx.get_active_memory())
    network = network_for(config)
    weights_by_name = sanitized(config, network.module, {name: array for name, (_, array) in found.items()})
    del found
    try:
        fill(network.module, weights_by_name, config)
    except Exception as error:  # names, shapes: nn.Module says which
        raise refused(config, "does not take these weights", error) from error
    del weights_by_name
    if execution.expand and config.quantization:
        expand(network.module)
    if execution.dtype:
        network.module.set_dtype(execution.dtype)
    evaluate(network.module, nbytes, progress)
    guest = Guest(config, network, dtype)
    guest.set_compiled(execution.compiled)
    return guest


def fill(module: Any, weights: dict[str, mx.array], config: GuestConfig) -> None:
    """Gives a network its weights, which must be all of its own, and quantizes its matrices as these are."""
    if setting := config.quantization:
        from mlx.nn import quantize

        def own_setting(path: str, part: Any) -> Any:
            if f"{path}.scales" not in weights or not hasattr(part, "to_quantized"):
                return False
            own = setting.setting(path)
            return {"group_size": own.group_size, "bits": own.bits, "mode": own.mode} if own else False

        quantize(module, setting.group_size, setting.bits, mode=setting.mode, class_predicate=own_setting)
    module.load_weights([*weights.items()], strict=True)


def evaluate(module: Any, nbytes: int, progress: Progress | None) -> None:
    """Brings each array into memory, one after another, so that the peak stays near the files' size."""
    from mlx.utils import tree_flatten

    arrays: list[mx.array] = [array for _, array in tree_flatten(module.parameters())]  # type: ignore[misc, str-unpack]
    total, done = sum(array.nbytes for array in arrays), 0
    for array in arrays:
        mx.eval(array)
        done += array.nbytes
        if progress:
            progress(nbytes * done // max(1, total), nbytes)


def stored_dtype(arrays: Mapping[str, mx.array]) -> mx.Dtype:
    """The floating type of a guest: that of its embedding or of the embedding's scales, else of the first floats."""
    stems = tuple(name.removesuffix("weight") for name in EMBEDDINGS)
    names = sorted(arrays, key=lambda name: not name.endswith((*EMBEDDINGS, *(f"{stem}scales" for stem in stems))))
    for name in names:
        if mx.issubdtype(arrays[name].dtype, mx.floating):
            return arrays[name].dtype
    raise BadCheckpoint("The weights are all whole numbers, so they are no language model's. Fetch the model again.")
