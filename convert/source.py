"""Which layout is this? A directory or a file becomes a configuration and tensors that are still on disk.

Layouts so far: Hugging Face, as safetensors or as PyTorch's .bin files, single or sharded. The kind of file and
the family's naming are told by the files' own names and config.json, never by the directory's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.config import ModelConfig, config_from_dict
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import NotFound, Unsupported
from elm_mlx.store.files import read_json, reading
from elm_mlx.store.weights import gather, indexed_files, read_arrays, read_header, safetensors_files

TORCH_SUFFIXES = (".bin", ".pt", ".pth")
# Files that tell a layout which is not read yet, with the way round it.
OTHER_LAYOUTS = {
    "params.json": "Meta's own layout (params.json, consolidated.*.pth)",
    "consolidated.00.pth": "Meta's own layout (params.json, consolidated.*.pth)",
    "weights.safetensors": "Apple's MLX example layout (weights.safetensors)",
    "checkpoint_average.pt": "a CoreNet training checkpoint",
}


@dataclass(frozen=True)
class Source:
    """An opened checkpoint: `where` is what the user named, `directory` where its configuration lies."""

    where: Path
    directory: Path
    layout: str
    raw_config: dict[str, Any]
    config: ModelConfig
    tensors: dict[str, LazyTensor]

    @property
    def family_layout(self) -> tuple[str, str]:
        """The key of the rename rules."""
        return self.config.family, "hugging-face"


def open_source(where: Path) -> Source:
    """Opens a checkpoint directory, or one weights file beside its config.json; headers are read, no tensor is.

    Raises NotFound, BadCheckpoint, Unsupported.
    """
    with reading(where):
        there = where.exists()
    if not there:
        raise NotFound(f"There is no {where}. Give a checkpoint's directory, or a weights file beside its config.json.")
    directory = where if where.is_dir() else where.parent
    files = weight_files(where)
    raw = read_json(directory / "config.json")
    config = config_from_dict(raw)
    if config.quantization:
        raise Unsupported(f"{where} is quantized already ({config.quantization.bits} bits). Convert the original.")
    tensors = gather(directory, files, read_file)
    kind = "PyTorch" if next(iter(files)).endswith(TORCH_SUFFIXES) else "safetensors"
    return Source(where, directory, f"Hugging Face, {kind}", raw, config, tensors)


def weight_files(where: Path) -> Mapping[str, list[str]]:
    """The files to read and the tensors an index places in each; safetensors before .bin where both are there."""
    if where.is_file():
        if where.suffix != ".safetensors" and where.suffix not in TORCH_SUFFIXES:
            raise Unsupported(f"{where} is not a weights file that elm-mlx reads: .safetensors, .bin, .pt or .pth.")
        return {where.name: []}
    files = safetensors_files(where) or indexed_files(where, "pytorch_model.bin", "pytorch_model.bin.index.json")
    if files:
        return files
    for name, layout in OTHER_LAYOUTS.items():
        if (where / name).exists():
            raise Unsupported(f"{where} is {layout}, which elm-mlx does not read yet. Use the Hugging Face repository.")
    raise NotFound(f"There are no weights in {where}: no model.safetensors, no pytorch_model.bin, no index.")


def read_file(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one weights file, by its ending."""
    if path.suffix in TORCH_SUFFIXES:
        return read_torch_file(path)
    header = read_header(path)
    return {name: LazyTensor(entry.shape, entry.dtype, partial(read_one, path, name)) for name, entry in header.items()}


def read_one(path: Path, name: str) -> mx.array:
    """One tensor, lazily, from the file opened anew: an array that is kept would keep its elements in memory."""
    return read_arrays(path)[name][1]
