"""The shapes of models that people may want to plan for before they fetch them, by the names that `elm-mlx list` shows.

Source: the config.json files of meta-llama's and Apple's repositories, in the shapes that `bench --random` uses, too.
"""

from __future__ import annotations

from typing import Any

from elm_mlx.bench.shapes import SHAPES, llama
from elm_mlx.config import ModelConfig, config_from_dict
from elm_mlx.errors import NotFound
from elm_mlx.library.names import READY_BITS, Known, Repository, known_models, parse_name
from elm_mlx.shell import command_line

LLAMA_3 = {"max_position_embeddings": 8192}
OPENELM = {"max_context_length": 2048}
CONFIGS: dict[str, dict[str, Any]] = {
    "openelm-270m": SHAPES["openelm-270m"] | OPENELM,
    "openelm-450m": SHAPES["openelm-450m"] | OPENELM,
    "openelm-1.1b": SHAPES["openelm-1.1b"] | OPENELM,
    "openelm-3b": SHAPES["openelm-3b"] | OPENELM,
    "llama-3-8b": llama(32, 4096, 32, 14_336, tied=False) | LLAMA_3,
    "llama-3-70b": llama(80, 8192, 64, 28_672, tied=False) | LLAMA_3,
    "llama-3.1-8b": llama(32, 4096, 32, 14_336, 8.0, tied=False),
    "llama-3.1-70b": llama(80, 8192, 64, 28_672, 8.0, tied=False),
    "llama-3.1-405b": llama(126, 16_384, 128, 53_248, 8.0, tied=False),
    "llama-3.2-1b": SHAPES["llama-3.2-1b"],
    "llama-3.2-3b": SHAPES["llama-3.2-3b"],
    "llama-3.3-70b": llama(80, 8192, 64, 28_672, 8.0, tied=False),
}


def published(model: str) -> tuple[ModelConfig, int | None]:
    """(the configuration of a model that is not here, the bits in which a pull would have it; None for 16-bit floats).
    Raises NotFound for a model whose shape is not known before it is fetched, and as `parse_name`."""
    known = find(model)
    raw = CONFIGS.get(known.name.removesuffix("-instruct")) if known else None
    if known is None or raw is None:
        fetch = command_line("elm-mlx", "pull", model)
        raise NotFound(f"{model} is not on this machine, and its shape is not known before it is fetched. Fetch it by "
                       f"`{fetch}`, or plan for one of these: {', '.join(CONFIGS)}.")  # fmt: skip
    return config_from_dict(raw), READY_BITS if known.ready else None


def find(model: str) -> Known | None:
    """The known model that a name means: its short name, or its publisher's repository."""
    name = parse_name(model)
    if isinstance(name, Repository):
        return next((known for known in known_models().values() if known.original.lower() == name.name.lower()), None)
    return name if isinstance(name, Known) else None
