"""Hugging Face's layout: weights in one file or in several (store.weight_files says which), beside a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from elm_mlx.convert.sources.safetensors_file import read_safetensors
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import Unsupported
from elm_mlx.shell import command_line
from elm_mlx.store.weight_files import TORCH_SUFFIXES

DORA = (".m", ".lora_magnitude_vector")  # the ends of names of DoRA's lengths: mlx-lm's, PEFT's


def read_file(path: Path) -> dict[str, LazyTensor]:
    """Reads the tensors of one weights file, whose suffix decides how."""
    if path.suffix in TORCH_SUFFIXES:
        return read_torch_file(path)
    return read_safetensors(path)


def refuse_adapter(where: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Refuses the tensors of an adapter, even where the model that it changes lies among them. Raises Unsupported."""
    if found := next((name for name in tensors if ".base_layer." in name or "lora_" in name), None):
        raise adapter_refusal(where, found, is_alone=all("lora_" in name or name.endswith(DORA) for name in tensors))


def adapter_refusal(where: Path, sign: str, *, is_alone: bool) -> Unsupported:
    """The error for an adapter (LoRA, DoRA and the like); `sign` is what shows that it is one. One that `is_alone` runs
    beside its model, or is merged into it, where that is of elm-mlx's own architectures."""
    what = f"{where} holds an adapter ({sign}), not a plain model."
    if not is_alone:
        return Unsupported(f"{what} Merge it first (merge_and_unload in PEFT), and convert what that gives.")
    here = ("--model", "MODEL", "--adapter", where if where.is_dir() else where.parent)
    run, merge = command_line("elm-mlx", "generate", *here), command_line("elm-mlx", "merge", *here, "--output", "DIR")
    return Unsupported(f"{what} Convert the model that it was made for, MODEL, and run it beside that: {run}; or merge "
                       f"it: {merge}. Where MODEL is neither a llama nor an openelm, merge it with PEFT "
                       "(merge_and_unload), and convert what that gives.")  # fmt: skip
