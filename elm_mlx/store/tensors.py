"""The tensors of a directory that its configuration calls for: all of them, with their shapes, and no other."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

import mlx.core as mx

from elm_mlx.config import HEAD_NAME, ModelConfig
from elm_mlx.errors import BadCheckpoint, NotFound
from elm_mlx.shell import command_line
from elm_mlx.store.other_names import head_as_embedding, refuse_other_names
from elm_mlx.store.stored_form import refuse_lost_quantization, stored_entries
from elm_mlx.store.weight_files import others_in, weight_files
from elm_mlx.store.weights import Entry, check_entries

T = TypeVar("T")  # an array, or where it lies


def runnable_weight_files(directory: Path) -> list[str]:
    """The weight files of a directory that runs without a conversion. Raises NotFound where there are none, and as
    `weight_files`."""
    found = weight_files(directory)
    if not found.are_safetensors:
        refuse_weights(directory, found.files)
    return found.files


def refuse_weights(directory: Path, files: list[str]) -> NoReturn:
    """Raises NotFound for a directory whose weight files, if it has some, are no safetensors."""
    names = [file.name for file in directory.iterdir()]
    convert = f" A PyTorch checkpoint has to be converted first: {command_line('elm-mlx', 'convert', directory)}"
    others = others_in(directory) or " Fetch them."
    advice = convert if files or any(name.endswith((".pt", ".pth")) for name in names) else others
    raise NotFound(f"{directory} has no weights in safetensors, the format that elm-mlx runs.{advice}")


def called_for(
    directory: Path, config: ModelConfig, found: Mapping[str, tuple[Entry, T]]
) -> dict[str, tuple[Entry, T]]:
    """Of the tensors that files hold, by name, those that `config` calls for. Raises BadCheckpoint where one is
    missing, or another one is there, and Unsupported for names that only `convert` reads."""
    refuse_other_names(directory, config, found)
    if config.quantization is None:
        stored = {name: entry for name, (entry, _) in found.items()}
        refuse_lost_quantization(directory / "config.json", stored, config.weight_shapes())
    named = head_as_embedding(config, found)
    used = {name: tensor for name, tensor in named.items() if not config.is_redundant(name)}
    is_quantized = {name for name in used if name.removesuffix("weight") + "scales" in used}
    expected = stored_entries(config, mx.float32, is_quantized.__contains__)
    check_entries(directory, expected, {name: entry for name, (entry, _) in used.items()})
    return used


def repeats_embedding(config: ModelConfig, names: Container[str]) -> bool:
    """Whether a tied model's head is stored beside its embedding, so that the two have to be compared."""
    return config.tied and HEAD_NAME in names and config.embedding_name in names


def stored_dtype(tensors: Mapping[str, mx.array] | Mapping[str, Entry], config: ModelConfig) -> mx.Dtype:
    """The floating type of a model: that of its embedding, else of the embedding's scales, else of the first norm."""
    scales = config.embedding_name.removesuffix("weight") + "scales"
    for name in (config.embedding_name, scales, *tensors):
        if name in tensors and mx.issubdtype(tensors[name].dtype, mx.floating):
            return tensors[name].dtype
    raise BadCheckpoint("The weights are all whole numbers, so they are no language model's. Fetch the model again.")
