"""A tokenizer that lies in the file of a model's weights, with what that says of sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Within:
    """The tokenizer in `file`: `read` gives the objects of tokenizer.json and tokenizer_config.json. It raises
    MissingTokenizer where there is none, BadCheckpoint, Unsupported. `generation` is the object of a
    generation_config.json, empty where the file says nothing."""

    file: Path
    read: Callable[[], tuple[dict[str, Any], dict[str, Any]]]
    generation: dict[str, Any] = field(default_factory=dict)
