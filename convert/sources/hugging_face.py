"""Hugging Face's layout: weights in one file, or in shards that an index lists, beside a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from elm_mlx.convert.sources.safetensors_file import read_safetensors
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import Unsupported
from elm_mlx.store.weights import indexed_files, safetensors_files

TORCH_SUFFIXES = (".bin", ".pt", ".pth")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def files(directory: Path) -> Mapping[str, list[str]]:
    """The weights files and the tensors that an index places in each; safetensors before .bin where both are there."""
    return safetensors_files(directory) or indexed_files(directory, "pytorch_model.bin", INDEXES[1])


def index_names(directory: Path, files: Mapping[str, list[str]]) -> list[str]:
    """The name of the index that places tensors in these files; none where they were found without an index."""
    return [name for name in INDEXES if (directory / name).is_file()][:1] if any(files.values()) else []


def read_file(path: Path) -> dict[str, LazyTensor]:
    """Reads the tensors of one weights file, whose suffix decides how."""
    if path.suffix in TORCH_SUFFIXES:
        return read_torch_file(path)
    return read_safetensors(path)


def refuse_adapter(where: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Refuses the tensors of an adapter, even where the model that it changes lies among them. Raises Unsupported."""
    if found := next((name for name in tensors if ".base_layer." in name or "lora_" in name), None):
        raise adapter_refusal(where, found)


def adapter_refusal(where: Path, sign: str) -> Unsupported:
    """The error for an adapter (LoRA, DoRA and the like); `sign` is what shows that it is one."""
    return Unsupported(f"{where} holds an adapter ({sign}), not a plain model. Merge it into its model first "
                       "(merge_and_unload in PEFT) and convert what that gives.")  # fmt: skip
