"""Adapters as Hugging Face's PEFT writes them: adapter_model.safetensors beside adapter_config.json.

Source: peft 0.21, utils/save_and_load.py and tuners/lora. `base_model.model.<matrix>.lora_A.weight` is [R, I],
`.lora_B.weight` [O, R], DoRA's `.lora_magnitude_vector` [O]. The sum is multiplied with alpha / r, with rslora by
alpha / sqrt(r); rank_pattern and alpha_pattern name matrices with others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.config.base import ModelConfig
from elm_mlx.errors import BadCheckpoint, Unsupported, unsupported
from elm_mlx.models.lora import LowRank
from elm_mlx.store.adapters.adapter_file import CONFIG_FILE, AdapterFile
from elm_mlx.store.adapters.arrays import Part, read_low_ranks
from elm_mlx.store.adapters.mlx_layout import base_of
from elm_mlx.store.adapters.values import number_of, object_of, rank_of

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
SUFFIXES = {".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_magnitude_vector": "m"}
# What changes more than low-rank sums beside a layer's matrices; each is refused by its name where it is set.
REFUSED = (
    "modules_to_save", "trainable_token_indices", "layer_replication", "target_parameters", "fan_in_fan_out",
    "lora_bias", "use_qalora", "alora_invocation_tokens", "megatron_config", "arrow_config", "use_bdlora",
)  # fmt: skip
CHANGES_BASE = re.compile(r"(pissa|olora|corda|loftq|lora_ga).*")  # ways to begin that change the base's weights, too
PLAIN_NAME = re.compile(r"[\w.-]+")  # PEFT takes patterns for regular expressions


def read(directory: Path, facts: Mapping[str, Any], config: ModelConfig) -> AdapterFile:
    """Reads an adapter whose adapter_config.json says `facts`. Raises NotFound, BadCheckpoint, Unsupported, and
    InvalidRequest for one of another model."""
    where = directory / CONFIG_FILE
    refuse_more(where, facts)
    scales = Scales(where, facts)
    arrays = read_low_ranks(directory / WEIGHTS_FILE, config, part_of, True, scales.of)
    for matrix, one in arrays.items():
        if (said := scales.rank(matrix)) != (rank := one.a.shape[1]):
            raise BadCheckpoint(f"{where} gives {matrix} rank {said}, and its tensors have {rank}. Take both files "
                                "from the same training.")  # fmt: skip
    check_lengths(where, facts, arrays)
    return AdapterFile(directory, base_of(directory / WEIGHTS_FILE, facts.get("base_model_name_or_path")), arrays)


def refuse_more(where: Path, facts: Mapping[str, Any]) -> None:
    """Raises Unsupported for an adapter that is more than low-rank sums."""
    if facts.get("peft_type") != "LORA":
        raise unsupported(f"{where}: peft_type", facts.get("peft_type"), ("LORA",))
    for name in REFUSED:
        if facts.get(name):
            raise Unsupported(f"{where}: {name} is {shown(facts[name])}, and elm-mlx runs low-rank sums beside the "
                              "matrices of layers alone. Merge it into its base with PEFT.")  # fmt: skip
    if facts.get("bias", "none") != "none":
        raise unsupported(f"{where}: bias", facts["bias"], ("none",), "Merge it into its base with PEFT.")
    begun = facts.get("init_lora_weights")
    if isinstance(begun, str) and CHANGES_BASE.fullmatch(begun.lower()):
        raise Unsupported(f"{where}: init_lora_weights is {shown(begun)}, which changed the base's weights, too. Save "
                          "it with PEFT's path_initial_model_for_weight_conversion, which makes it plain.")  # fmt: skip


def part_of(name: str) -> Part | None:
    """Which part of which matrix a tensor is; None for one that is none."""
    for suffix, part in SUFFIXES.items():
        if name.startswith(PREFIX) and name.endswith(suffix):
            return name.removeprefix(PREFIX).removesuffix(suffix), part
    return None


def check_lengths(where: Path, facts: Mapping[str, Any], arrays: Mapping[str, LowRank]) -> None:
    """Raises BadCheckpoint where use_dora and the tensors disagree."""
    dora = bool(facts.get("use_dora"))
    if wrong := [matrix for matrix, one in arrays.items() if (one.m is not None) != dora]:
        raise BadCheckpoint(f"{where}: use_dora is {dora}, and {wrong[0]} has {'no' if dora else 'a'} magnitude "
                            "vector. Take both files from the same training.")  # fmt: skip


class Scales:
    """The rank that a configuration gives each matrix, and what its sum is multiplied with."""

    def __init__(self, where: Path, facts: Mapping[str, Any]) -> None:
        """Raises BadCheckpoint for values that have no meaning, Unsupported for patterns that are no plain names."""
        self.where, self.by_root = where, bool(facts.get("use_rslora"))
        self.r = rank_of(where, "r", facts.get("r"))
        self.alpha = number_of(where, "lora_alpha", facts.get("lora_alpha"))
        self.ranks = self._pattern("rank_pattern", facts)
        self.alphas = self._pattern("alpha_pattern", facts)

    def rank(self, matrix: str) -> int:
        """The rank of the sum beside a matrix."""
        return rank_of(self.where, "rank_pattern", found_in(self.ranks, matrix, self.r))

    def of(self, matrix: str) -> float:
        """What the sum beside a matrix is multiplied with."""
        alpha = number_of(self.where, "alpha_pattern", found_in(self.alphas, matrix, self.alpha))
        rank = min(self.rank(matrix), 2**31)
        return alpha / (math.sqrt(rank) if self.by_root else rank)

    def _pattern(self, name: str, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        values = object_of(self.where, name, facts.get(name))
        if wrong := [key for key in values if not PLAIN_NAME.fullmatch(key.removeprefix("^"))]:
            raise Unsupported(f"{self.where}: {name} has the regular expression {shown(wrong[0])}; elm-mlx takes names "
                              "of modules alone. Write the names that it stands for.")  # fmt: skip
        return values


def found_in(values: Mapping[str, Any], matrix: str, otherwise: Any) -> Any:
    """The value of the first name that is a matrix's own, or the end of it; one that begins with ^ is whole."""
    for name, value in values.items():
        if matrix == name.removeprefix("^") or (not name.startswith("^") and matrix.endswith(f".{name}")):
            return value
    return otherwise
