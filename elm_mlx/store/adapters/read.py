"""From a directory to an adapter, whichever layout it has."""

from __future__ import annotations

from pathlib import Path

from elm_mlx.config.base import ModelConfig
from elm_mlx.errors import InvalidRequest, NotFound, Unsupported
from elm_mlx.files import read_json, reading
from elm_mlx.store.adapters import mlx_layout, peft_layout
from elm_mlx.store.adapters.adapter_file import CONFIG_FILE, AdapterFile
from elm_mlx.store.fingerprint import weights_fingerprint

TORCH_FILE = "adapter_model.bin"


def read_adapter(directory: Path, config: ModelConfig) -> AdapterFile:
    """Reads an adapter of mlx-lm's or PEFT's layout for a model, its arrays evaluated.

    Raises NotFound where there is none; BadCheckpoint for files that are damaged or hostile; Unsupported for what is no
    LoRA or DoRA on a layer's matrices; InvalidRequest for one whose matrices the model does not have.
    """
    find_adapter(directory)
    facts = read_json(directory / CONFIG_FILE)
    if "peft_type" not in facts:
        return mlx_layout.read(directory, facts, config)
    with reading(directory):
        if (directory / TORCH_FILE).exists() and not (directory / peft_layout.WEIGHTS_FILE).exists():
            raise Unsupported(f"{directory} holds its tensors in {TORCH_FILE}; elm-mlx reads adapters in safetensors. "
                              "Save it again with PEFT's save_pretrained, which writes them by default.")  # fmt: skip
    return peft_layout.read(directory, facts, config)


def find_adapter(directory: Path) -> None:
    """Raises NotFound where a directory holds no adapter."""
    with reading(directory):
        if not (directory / CONFIG_FILE).exists():
            raise NotFound(f"There is no adapter in {directory}: it has no {CONFIG_FILE}. Give the directory that "
                           "training has written.")  # fmt: skip


OR_FORCE = "Name the model that it was made for, or give {force} to use it all the same."


def check_base(adapter: AdapterFile, directory: Path, advice: str = OR_FORCE) -> None:
    """Raises InvalidRequest, with `advice`, where an adapter knows which weights it was made for, and a model's
    directory has others. What an adapter does not know cannot be judged."""
    if adapter.base.weights and adapter.base.weights != weights_fingerprint(directory):
        name = f" ({adapter.base.name})" if adapter.base.name else ""
        raise InvalidRequest(
            f"{adapter.path} was made for other weights{name} than those in {directory}, so its sums would mean "
            "something else there.",
            advice,
        )
