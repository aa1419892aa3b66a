"""Which files of a directory, in any layout, are the weights of the checkpoint to convert."""

from __future__ import annotations

from pathlib import Path

from elm_mlx.convert.sources import corenet, gguf, hugging_face, meta
from elm_mlx.errors import NotFound, Unsupported
from elm_mlx.store.weight_files import TORCH_SUFFIXES, WeightFiles, others_in, weight_files

NOWHERE = " Fetch them, or give the directory that holds them."


def checkpoint_files(where: Path) -> WeightFiles:
    """The weights files to read; there is at least one. Raises as `open_source`."""
    if where.is_file():
        if gguf.is_gguf(where.name):
            return WeightFiles(gguf.files(where))
        if where.suffix != ".safetensors" and where.suffix not in TORCH_SUFFIXES:
            raise Unsupported(f"{where} is not a weights file. Give a .safetensors, .bin, .pt, .pth or .gguf file, or "
                              "a directory.")  # fmt: skip
        return WeightFiles(meta.files(where.parent) if meta.CONSOLIDATED.fullmatch(where.name) else [where.name])
    if (found := weight_files(where)).files:
        return found
    if files := meta.files(where) or corenet.files(where) or gguf.files(where):
        return WeightFiles(files)
    if (where / "adapter_config.json").exists():
        raise hugging_face.adapter_refusal(where, "adapter_config.json", is_alone=True)
    below = f" Meta's files may lie in {where / 'original'}." if (where / "original").is_dir() else ""
    below += others_in(where)
    raise NotFound(f"There are no weights in {where}: no safetensors, no pytorch_model.bin, no index, no "
                   f"consolidated.00.pth, no .pt, no .gguf.{below or NOWHERE}")  # fmt: skip
