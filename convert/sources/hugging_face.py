"""Hugging Face's layout: weights in one file or in several (store.weight_files says which), beside a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from elm_mlx.convert.sources.safetensors_file import read_safetensors
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import Unsupported
from elm_mlx.store.weight_files import TORCH_SUFFIXES


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
