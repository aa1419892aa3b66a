"""The families that run through mlx-lm's classes, found without importing it: that takes seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from elm_mlx.config.abilities import ONE_ROW, Abilities
from elm_mlx.errors import MissingBackend, Unsupported

EXTRA = "pip install 'elm-mlx[mlx-lm]'; from a checkout: pip install -e '.[mlx-lm]'"
MODULE = re.compile(r"[A-Za-z0-9_-]{1,64}")
RENAMED = {  # model_type -> the module of mlx-lm with its classes, where that has another name (0.32.2)
    "falcon_mamba": "mamba", "iquestcoder": "llama", "kimi_k2": "deepseek_v3", "minimax_m2": "minimax",
    "mistral": "llama", "phi-msft": "phixtral", "xverse": "llama",
}  # fmt: skip
HELPERS = {"activations", "base", "bitlinear_layers", "cache", "gated_delta", "mla", "pipeline", "rope_utils", "ssm",
           "switch_layers"}  # fmt: skip
# What does not run, and why: the sentence goes on after the name.
REFUSED = {
    "olmo": "is the first OLMo, whose class in mlx-lm needs the package ai2-olmo and its own layout of files. Take an "
            "OLMo 2 (model_type olmo2).",
}  # fmt: skip
TRIMS = Abilities(rows=False, trims=True, kinds=False, files=False, adapters=False)
TOGETHER = replace(TRIMS, rows=True)


@dataclass(frozen=True)
class GuestFamily:
    """A model_type that runs through mlx-lm: the `module` of mlx-lm that has its classes, whether our tests run it
    (`tested`), what its caches were shown to be able to do, and whether its class computes attention `windows`."""

    model_type: str
    module: str
    tested: bool = False
    abilities: Abilities = ONE_ROW
    windows: bool = True


# Those that tests/guests/families.json has, which a test writes, and what their caches were seen to do there.
TRIMMABLE = ("gemma", "mixtral", "nemotron", "olmo2", "phi3", "qwen2", "qwen3", "starcoder2")
ROW_BY_ROW = ("gemma2",)  # its class takes a mask of one row alone
WHOLE = ("gemma3_text", "recurrent_gemma")
TESTED = dict.fromkeys(TRIMMABLE, TOGETHER) | dict.fromkeys(ROW_BY_ROW, TRIMS) | dict.fromkeys(WHOLE, ONE_ROW)


def guest_family(model_type: str, where: str) -> GuestFamily:
    """The family of a model_type that a configuration, which errors call `where`, names.

    Raises MissingBackend where mlx-lm is not installed, Unsupported where it has no such architecture or it is one that
    does not run.
    """
    if why := REFUSED.get(model_type):
        raise Unsupported(f"{where}: model_type {model_type!r} {why}")
    folder = models_folder()
    if folder is None:
        raise MissingBackend(f"{where}: model_type is {model_type!r:.70}. elm-mlx runs llama and openelm itself, and "
                             f"others through mlx-lm, which is not installed. Install it with its extra: {EXTRA}."
                             )  # fmt: skip
    module = RENAMED.get(model_type, model_type)
    if module in HELPERS or not MODULE.fullmatch(module) or not (folder / f"{module}.py").is_file():
        raise Unsupported(f"{where}: model_type is {model_type!r:.70}, which neither elm-mlx (llama, openelm) nor "
                          "the installed mlx-lm runs. Take a model of another kind, or a newer mlx-lm.")  # fmt: skip
    tested = model_type in TESTED
    return GuestFamily(model_type, module, tested, TESTED.get(model_type, ONE_ROW), not tested or model_type in WHOLE)


@cache
def models_folder() -> Path | None:
    """The folder of mlx-lm's architectures; None where it is not installed. Imports nothing of it."""
    found = find_spec("mlx_lm")
    places = found.submodule_search_locations if found else None
    return Path(places[0]) / "models" if places else None
