"""The fixtures `source`, `openelm` and `lm` with models of two layers, for tests of what runs models and not of models.

A step of a tiny model takes as long as its layers are many, whatever their size. A conftest.py that names these
fixtures puts them in the place of the common ones, for its folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints

import elm_mlx


def shallow(raw: dict[str, Any]) -> dict[str, Any]:
    """A configuration with two layers, which still differ in size in OpenELM."""
    name = "num_transformer_layers" if raw["model_type"] == "openelm" else "num_hidden_layers"
    return raw | {name: 2}


@pytest.fixture(scope="session", params=list(checkpoints.CONFIGS))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 Hugging Face checkpoint with a tokenizer, of two layers, one for each tiny configuration."""
    folder = tmp_path_factory.mktemp("sources") / request.param
    return checkpoints.write(folder, shallow(checkpoints.CONFIGS[request.param]))


@pytest.fixture(scope="session")
def openelm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny OpenELM checkpoint of two layers alone, where one family is enough."""
    return checkpoints.write(tmp_path_factory.mktemp("openelm") / "openelm", shallow(checkpoints.CONFIGS["openelm"]))


@pytest.fixture(scope="session")
def lm(source: Path) -> elm_mlx.LanguageModel:
    """The loaded model of `source`, in float32."""
    return elm_mlx.load(source)
