"""Other names that a checkpoint's tensors may have: saved inside a wrapper, which puts words in, or without a prefix.

A conversion gives them Hugging Face's names; loading says so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from elm_mlx.config import HEAD_NAME, ModelConfig
from elm_mlx.errors import Unsupported
from elm_mlx.shell import command_line

T = TypeVar("T")
# By torch.compile; DataParallel and DistributedDataParallel; FSDP; activation checkpointing. They stand anywhere.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# A model that was one part of a training's own, or PEFT's around one whose adapters are merged.
OUTER = re.compile(r"^(?:base_model\.)?model\.(?=(?:model|lm_head|transformer)\.)")
# family -> (pattern, replacement): the model was saved without its head, and so without the name that it has beside it.
HEADLESS = {
    "llama": (r"^(?=(?:embed_tokens|layers|norm)\.)", "model."),
    "openelm": (r"^(?=(?:token_embeddings|layers|norm)\.)", "transformer."),
}
HEADLESS["bitnet"] = HEADLESS["llama"]


LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\.(mlp\.gate_proj\.weight|self_attn\.q_proj\.weight)")


def has_one_ffn(names: Iterable[str]) -> bool:
    """Whether tensors are those of several layers with one feed-forward, which is stored under the name of one of them,
    as safetensors leaves out the other names of what is shared (MobiLlama)."""
    found = [match[2] for name in names if (match := LAYER.fullmatch(unwrap(name)))]
    return len(found) > 2 and found.count("mlp.gate_proj.weight") == 1


def unwrap(name: str) -> str:
    """A tensor's name without the words of wrappers."""
    return OUTER.sub("", WRAPPERS.sub("", name))


def are_usual(names: Iterable[str]) -> bool:
    """Whether tensors have names that load, of whatever family they are."""
    patterns = [pattern for pattern, _ in HEADLESS.values()]
    return not any(unwrap(name) != name or any(re.match(pattern, name) for pattern in patterns) for name in names)


def refuse_other_names(directory: Path, config: ModelConfig, names: Iterable[str]) -> None:
    """Raises Unsupported for names that only a conversion reads."""
    if has_one_ffn(names := list(names)):
        command = command_line("elm-mlx", "convert", directory)
        raise Unsupported(f"All layers of the model in {directory} have one feed-forward, which is stored under the "
                          f"name of one of them. Convert it, which says so in its config.json: {command}")  # fmt: skip
    for name in names:
        if (usual := re.sub(*HEADLESS[config.family], unwrap(name))) != name:
            command = command_line("elm-mlx", "convert", directory)
            raise Unsupported(f"The weights in {directory} were saved from inside another model, or by torch.compile, "
                              f"DataParallel or the like, which changed their names: {name} is {usual}. Convert them, "
                              f"which gives them the usual names: {command}")  # fmt: skip


def is_only_head(config: ModelConfig, names: Collection[str]) -> bool:
    """Whether a tied model's one matrix is stored under the name of its head instead of its embedding's."""
    return config.tied and HEAD_NAME in names and config.embedding_name not in names


def head_as_embedding(config: ModelConfig, tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors by name, those of a head that is stored for both under its embedding's."""
    if not is_only_head(config, tensors):
        return dict(tensors)
    head, embedding = (name.removesuffix("weight") for name in (HEAD_NAME, config.embedding_name))
    return {embedding + name.removeprefix(head) if name.startswith(head) else name: t for name, t in tensors.items()}
