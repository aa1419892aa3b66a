"""How a model is sampled by a call without options: its own files first, then its publisher's recommendation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from elm_mlx.config.generation import SAMPLING_NAMES, Sampling
from elm_mlx.files import optional_json
from elm_mlx.library.recommended import recommendation_for
from elm_mlx.store.side_files import GENERATION
from elm_mlx.store.text_settings import load_generation

SAMPLES = "do_sample"  # the key that says whether to sample
THE_FILE = f"the model's {GENERATION}"


@dataclass(frozen=True)
class Defaults:
    """How a model is sampled where a call does not say it, and `origins`: by the names of values where these come from,
    in words. A value that has no origin is elm-mlx's own. The name "raw" stands for prompts that are given as they
    are."""

    sampling: Sampling
    origins: Mapping[str, str]


def read_defaults(directory: Path) -> Defaults:
    """Reads how the model in a directory is sampled. A generation_config.json that has any key about sampling counts
    alone; otherwise the recommendation of the model's publisher does, if there is one.

    Raises BadCheckpoint for a generation_config.json that is damaged or names stop ids that are none.
    """
    sampling, keys = load_generation(directory).sampling, sampling_keys(directory)
    origins = dict.fromkeys(said_by_file(sampling, keys), THE_FILE)
    advice = None if keys else recommendation_for(directory)
    if advice:
        sampling = replace(sampling, **advice.sampling)  # type: ignore[arg-type]
        origins |= dict.fromkeys((*advice.sampling, "raw"), f"recommendation, {advice.about}")
    return Defaults(sampling, origins)


def sampling_keys(directory: Path) -> list[str]:
    """The keys about sampling in a directory's generation_config.json, whether what they say is used or not."""
    found = optional_json(directory / GENERATION)
    return [name for name in (SAMPLES, *SAMPLING_NAMES) if found.get(name) is not None]


def said_by_file(sampling: Sampling, keys: list[str]) -> list[str]:
    """The names of the values that come from a file with these keys: those that are not as elm-mlx has them, and the
    temperature where the file says whether to sample."""
    own = Sampling()
    changed = {name for name in SAMPLING_NAMES if getattr(sampling, name) != getattr(own, name)}
    return [*changed, *(["temperature"] if SAMPLES in keys else [])]
