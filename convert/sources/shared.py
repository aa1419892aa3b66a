"""Weights that several layers share: found in a checkpoint that holds copies of them, or copied for readers that know
no sharing.

MobiLlama has one feed-forward for all layers. Its files name it in each layer: in PyTorch's format as one storage, in
safetensors as copies, or once, under any layer's name, as transformers leaves out what it knows to be the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from elm_mlx.config import LlamaConfig, ModelConfig, config_from_dict
from elm_mlx.config.llama import MOBILLAMA, SHARED_FFN
from elm_mlx.convert.sources.meta import are_equal
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file.tensors import View
from elm_mlx.errors import BadCheckpoint
from elm_mlx.store.other_names import HEADLESS, unwrap

OF_A_LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\.mlp\.(gate_proj|up_proj|down_proj)\.weight")
MATRICES = 3  # of a feed-forward
FIRST_KEYS = "layers.0.self_attn.k_proj.weight"
BLOCK = re.compile(r"(model\.layers\.)(\d+)\.")
Copies = dict[str, dict[int, str]]  # matrix -> layer -> the tensor's name


class Once(NamedTuple):
    """A checkpoint whose feed-forward is there once: its config.json, its tensors, and how many copies are left out."""

    raw_config: dict[str, Any]
    tensors: dict[str, LazyTensor]
    copies: int


def find_shared(where: Path, raw: dict[str, Any], tensors: Mapping[str, LazyTensor]) -> Once | None:
    """The feed-forward once, where all layers of a Llama have one and the same; else None. Raises BadCheckpoint where
    config.json, the object `raw`, names a MobiLlama and they differ."""
    copies, layers = copies_in(tensors), layer_count(tensors)
    is_whole = all(len(names) in (1, layers) for names in copies.values())
    if len(copies) < MATRICES or layers < 2 or not is_whole:
        return None
    each = [[tensors[name] for name in names.values()] for names in copies.values()]
    if not (is_left_out(copies) or (all(map(may_be_copies, each)) and all(map(are_copies, each)))):
        if raw.get("model_type") == MOBILLAMA:
            raise BadCheckpoint(f"{where}: config.json says {MOBILLAMA}, whose layers have one feed-forward, and those "
                                "in the weights differ. Take both from one repository.")  # fmt: skip
        return None
    kept = {names[min(names)]: f"{SHARED_FFN}{matrix}.weight" for matrix, names in copies.items()}
    others = {name for names in copies.values() for name in names.values()} - kept.keys()
    once = {kept.get(name, name): tensor for name, tensor in tensors.items() if name not in others}
    return Once(raw | shapes_of(once, raw) | {"model_type": MOBILLAMA}, once, len(others))


def copies_in(tensors: Mapping[str, LazyTensor]) -> Copies:
    """The names of the feed-forwards' matrices."""
    copies: Copies = {}
    for name, tensor in tensors.items():
        is_matrix = len(tensor.shape) == 2 and prod(tensor.shape) > 0
        if is_matrix and (found := OF_A_LAYER.fullmatch(unwrap(name))):
            copies.setdefault(found[2], {})[int(found[1])] = name
    return copies


def layer_count(names: Mapping[str, object]) -> int:
    """How many layers the names of tensors speak of."""
    return len({found[1] for name in names if (found := re.match(r"(?:model\.)?layers\.(\d+)\.", unwrap(name)))})


def is_left_out(copies: Copies) -> bool:
    """Whether each matrix is there once alone."""
    return all(len(names) == 1 for names in copies.values())


def may_be_copies(tensors: Sequence[LazyTensor]) -> bool:
    """Whether several tensors may be copies of one, by as little of them as says no for those of any other model: their
    shapes, and the first rows of two of them, which must not be one number repeated."""
    if len(tensors) < 2 or any(tensor.shape != tensors[0].shape for tensor in tensors):
        return False
    if is_one_storage(tensors):
        return True
    a, b = (next(tensor.blocks(1)) for tensor in tensors[:2])
    return are_equal(a, b) and not bool((a == a[:, :1]).all().item())


def is_one_storage(tensors: Sequence[LazyTensor]) -> bool:
    """Whether tensors of a PyTorch file are names of one."""
    first = tensors[0].read
    return isinstance(first, View) and all(tensor.read == first for tensor in tensors)


def are_copies(tensors: Sequence[LazyTensor]) -> bool:
    """Whether tensors of one shape hold equal elements; each is read once, some rows at a time."""
    if is_one_storage(tensors):
        return True
    rows = zip(*(tensor.blocks() for tensor in tensors), strict=True)
    return all(are_equal(first, other) for first, *others in rows for other in others)


def shapes_of(tensors: Mapping[str, LazyTensor], raw: Mapping[str, Any]) -> dict[str, int]:
    """What the tensors say of a MobiLlama's shape: the config.json beside its training code says another."""
    head_dim = config_from_dict({**raw, "model_type": MOBILLAMA}).head_dim
    keys = next((t.shape[0] for name, t in tensors.items() if t.shape and name.endswith(FIRST_KEYS)), 0)
    return {
        "num_hidden_layers": layer_count(tensors),
        "intermediate_size": tensors[f"{SHARED_FFN}gate_proj.weight"].shape[0],
        "num_key_value_heads": max(1, keys // head_dim),
    }


def unshare(config: LlamaConfig, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors of the plain Llama that computes the same, each layer with weights of its own."""
    usual = {re.sub(*HEADLESS[config.family], unwrap(name)): tensor for name, tensor in tensors.items()}
    return {name: tensor for shared, tensor in usual.items() for name in names_unshared(shared, config)}


def names_unshared(name: str, config: LlamaConfig) -> Iterator[str]:
    """The names that a weight has where each layer has its own."""
    if config.shared_ffn and name.startswith(SHARED_FFN):
        yield from (f"model.layers.{layer}.{name.removeprefix('model.')}" for layer in range(config.num_layers))
    elif found := BLOCK.match(name):
        first = int(found[2]) * config.repeats
        yield from (f"{found[1]}{first + i}.{name[found.end() :]}" for i in range(config.repeats))
    else:
        yield name


def is_shared(config: ModelConfig) -> bool:
    """Whether layers of a model share weights."""
    return isinstance(config, LlamaConfig) and config.is_shared
