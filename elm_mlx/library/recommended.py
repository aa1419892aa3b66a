"""How publishers recommend to sample models whose files do not say it, as data, and whose model a directory holds.

Apple's OpenELM repositories have a generation_config.json that says nothing about sampling. Their model cards do
(https://huggingface.co/apple/OpenELM-450M, "Usage"): they run generate_openelm.py, which continues a prompt as it is,
without a template, greedily, with `repetition_penalty=1.2`. Without the penalty these models soon repeat themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elm_mlx.errors import BadCheckpoint
from elm_mlx.files import optional_json
from elm_mlx.library.copies import copy_at
from elm_mlx.library.names import OPENELM
from elm_mlx.store.snapshot import snapshot_at

RECORD = "conversion.json"  # what elm-mlx writes beside the weights that it converts


@dataclass(frozen=True)
class Recommendation:
    """What a publisher recommends for some of its models: `about` says who and for which, `sampling` the values by
    their names in `Sampling`."""

    about: str
    sampling: Mapping[str, float]


OF_APPLE = Recommendation("Apple's for OpenELM", {"temperature": 0.0, "repetition_penalty": 1.2})
RECOMMENDED = {f"apple/{name}{kind}".lower(): OF_APPLE for name, _ in OPENELM.values() for kind in ("", "-Instruct")}


def recommendation_for(directory: Path) -> Recommendation | None:
    """What its publisher recommends for the model in a directory; None where that is not known to be a publisher's own,
    whatever its shape: a fine-tuned model may want something else."""
    repository = repository_of(directory)
    return RECOMMENDED.get(repository.lower()) if repository else None


def repository_of(directory: Path) -> str | None:
    """The repository that the model in a directory was made from, as its conversion.json says, or else its place in a
    cache; None where neither says it."""
    if repository := recorded_repository(directory):
        return repository
    if place := snapshot_at(directory) or copy_at(directory):
        return place.repository
    return None


def recorded_repository(directory: Path) -> str | None:
    """The repository that conversion.json names as the source of the model in a directory, or None."""
    try:
        source = optional_json(directory / RECORD).get("source")
    except BadCheckpoint:  # running a model needs no record of its conversion, so a damaged one must not prevent it
        return None
    repository = source.get("repository") if isinstance(source, dict) else None
    return repository if isinstance(repository, str) else None
