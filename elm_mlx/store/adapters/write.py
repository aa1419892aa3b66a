"""Writes an adapter in mlx-lm's layout or in PEFT's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.config.base import ModelConfig
from elm_mlx.errors import InvalidRequest
from elm_mlx.files import check_room, disk_errors, whole_file, write_json
from elm_mlx.models.lora import LowRank
from elm_mlx.store.adapters import mlx_layout, peft_layout
from elm_mlx.store.adapters.adapter_file import CONFIG_FILE, Base
from elm_mlx.store.adapters.arrays import parts_of
from elm_mlx.store.weights import Entry, Writer

MLX, PEFT = "mlx", "peft"
LAYOUTS = MLX, PEFT
FORMATS = {MLX: "mlx", PEFT: "pt"}
ANOTHER = "Name another directory."
UNKNOWN = Base()


@dataclass(frozen=True)
class Written:
    """What is written: the sums by the names of their matrices, what all of them are multiplied with, and the base that
    they were made for. An AdapterFile's sums have `scale` 1."""

    arrays: Mapping[str, LowRank]
    base: Base = UNKNOWN
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max(one.a.shape[1] for one in self.arrays.values())

    @property
    def is_dora(self) -> bool:
        """Whether rows have learned lengths. Raises InvalidRequest where only some matrices have, which neither layout
        can say."""
        lengths = {one.m is not None for one in self.arrays.values()}
        if len(lengths) > 1:
            raise InvalidRequest("Some matrices of this adapter have learned lengths and some have none, and no layout "
                                 "of files can say so.")  # fmt: skip
        return lengths == {True}


def write_adapter(directory: Path, adapter: Written, config: ModelConfig, layout: str = MLX) -> None:
    """Writes an adapter's directory, which is made where it is not there: each file is whole or not there, and replaces
    an earlier one; the configuration comes last. Raises InvalidRequest for another layout, DiskFull, ElmError."""
    if layout not in LAYOUTS:
        raise InvalidRequest(f"layout is {layout!r}; it must be one of {', '.join(LAYOUTS)}.")
    tensors = mlx_tensors(adapter) if layout == MLX else peft_tensors(adapter)
    facts = mlx_facts(adapter, config) if layout == MLX else peft_facts(adapter)
    name = mlx_layout.WEIGHTS_FILE if layout == MLX else peft_layout.WEIGHTS_FILE
    entries = {key: Entry(array.dtype, array.shape) for key, array in tensors.items()}
    metadata = {"format": FORMATS[layout], **base_metadata(adapter.base)}
    with disk_errors(f"{directory} cannot be written", ANOTHER, "name another directory"):
        directory.mkdir(parents=True, exist_ok=True)
        check_room(directory, ANOTHER, (directory, sum(array.nbytes for array in tensors.values())))
        with whole_file(directory / name) as beside, Writer(beside, entries, metadata=metadata) as writer:
            for key, array in tensors.items():
                writer.write(key, array)
        with whole_file(directory / CONFIG_FILE) as beside:
            write_json(beside, facts)


def mlx_tensors(adapter: Written) -> dict[str, mx.array]:
    """The tensors of mlx-lm's layout. It knows one rank: smaller ones are filled with zeros, which change nothing."""
    tensors = {}
    for matrix, one in adapter.arrays.items():
        more = adapter.rank - one.a.shape[1]
        tensors[f"{matrix}.lora_a"] = mx.pad(one.a, [(0, 0), (0, more)])
        tensors[f"{matrix}.lora_b"] = mx.pad(one.b, [(0, more), (0, 0)])
        if one.m is not None:
            tensors[f"{matrix}.m"] = one.m
    mx.eval(tensors)
    return tensors


def mlx_facts(adapter: Written, config: ModelConfig) -> dict[str, Any]:
    """mlx-lm's adapter_config.json: what its own loader reads."""
    inside = [matrix for matrix in adapter.arrays if ".layers." in matrix]  # the others are those of all layers
    first = min(map(layer_of, inside), default=0)
    keys = sorted({matrix.split(f".{layer_of(matrix)}.", 1)[1] for matrix in inside})
    return {
        "fine_tune_type": "dora" if adapter.is_dora else "lora",
        "num_layers": config.num_blocks - first,
        "lora_parameters": {"rank": adapter.rank, "scale": adapter.scale, "dropout": 0.0, "keys": keys},
        "model": adapter.base.name,
    }


def peft_tensors(adapter: Written) -> dict[str, mx.array]:
    """The tensors of PEFT's layout, whose matrices lie the other way round."""
    names = {part: suffix for suffix, part in peft_layout.SUFFIXES.items()}
    tensors = {}
    for matrix, one in adapter.arrays.items():
        for part, array in zip("abm", parts_of(one), strict=False):
            turned = array if part == "m" else mx.contiguous(array.T)
            tensors[f"{peft_layout.PREFIX}{matrix}{names[part]}"] = turned
    mx.eval(tensors)
    return tensors


def peft_facts(adapter: Written) -> dict[str, Any]:
    """PEFT's adapter_config.json. Each rank r has the alpha scale * r, so that alpha / r is the scale."""
    ranks = {matrix: one.a.shape[1] for matrix, one in adapter.arrays.items()}
    others = {matrix: rank for matrix, rank in ranks.items() if rank != adapter.rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base.name,
        "r": adapter.rank,
        "lora_alpha": adapter.scale * adapter.rank,
        "rank_pattern": others,
        "alpha_pattern": {matrix: adapter.scale * rank for matrix, rank in others.items()},
        "use_dora": adapter.is_dora,
        "use_rslora": False,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "inference_mode": True,
    }


def base_metadata(base: Base) -> dict[str, str]:
    """What is known of the base, as the metadata of a file."""
    known = {mlx_layout.BASE: base.name, mlx_layout.BASE_WEIGHTS: base.weights}
    return {key: value for key, value in known.items() if value}


def layer_of(matrix: str) -> int:
    """The number of the layer that a matrix belongs to."""
    return int(matrix.split(".layers.", 1)[1].split(".", 1)[0])
