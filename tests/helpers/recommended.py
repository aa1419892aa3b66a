"""Models for which Apple's recommendation counts: a tiny one that says it was made from one of Apple's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def as_apples(directory: Path, target: Path, repository: object = "apple/OpenELM-450M") -> Path:
    """A copy of a model's directory, with a conversion.json as elm-mlx writes it for a repository."""
    folder = Path(shutil.copytree(directory, target))
    record = {"source": {"repository": repository, "revision": "0" * 40, "layout": "Hugging Face"}}
    (folder / "conversion.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def say_sampling(directory: Path, **values: object) -> Path:
    """Replaces a directory's generation_config.json."""
    (directory / "generation_config.json").write_text(json.dumps(values), encoding="utf-8")
    return directory
