"""What a model's caches cannot do, said before anything is asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.config import ModelConfig
from elm_mlx.errors import InvalidRequest

ON_RANKS = "is not possible with a model that several machines hold together"


def refuse_unable(config: ModelConfig, options: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for options of a call that the caches of a model of this configuration cannot serve."""
    able, what = config.abilities, f"A model of the kind {config.model_type} keeps its caches by mlx-lm's classes"
    for name in ("window", "kv_bits"):
        if options.get(name) is not None and not able.kinds:
            raise InvalidRequest(f"{what}: they have no windows and no quantized forms.", f"Leave {{{name}}} out.")
    if options.get("lookup") and not able.trims:
        raise InvalidRequest(f"{what}, and these cannot forget what was proposed wrongly.", "Leave {lookup} out.")


def refuse_draft(config: ModelConfig, role: str) -> None:
    """Raises InvalidRequest where a model, whose `role` is told, cannot take part in speculation."""
    if not config.abilities.trims:
        raise InvalidRequest(f"{role} is a model of the kind {config.model_type}: its caches cannot forget what "
                             "was proposed wrongly.", "Leave {draft} out.")  # fmt: skip


def refuse_draft_on_ranks(draft: object) -> None:
    """Raises InvalidRequest for a draft beside a model that several ranks hold together."""
    if draft is not None:
        raise InvalidRequest(f"A draft {ON_RANKS}.", "Leave {draft} out.")


def refuse_on_ranks(is_shared: bool, what: str, advice: str = "") -> None:
    """Raises InvalidRequest for what a model cannot do that several ranks hold together, if this one is."""
    if is_shared:
        raise InvalidRequest(f"{what} {ON_RANKS}.", advice or "Load the model on one machine for that.")


def refuse_files(config: ModelConfig) -> None:
    """Raises InvalidRequest where there are no files of keys and values."""
    if not config.abilities.files:
        raise InvalidRequest(f"Files of keys and values are for llama and openelm, and this model is of the kind "
                             f"{config.model_type}. Its prompts are read anew by each process.")  # fmt: skip


def refuse_adapters(config: ModelConfig) -> None:
    """Raises InvalidRequest where a model takes no adapters."""
    if not config.abilities.adapters:
        raise InvalidRequest(f"Adapters are for llama and openelm, and this model is a {config.model_type}. "
                             "Merge the adapter into the model first, with the program that made it.")  # fmt: skip
