"""The built-in demo with two of its seven layers, for tests that need its name, tokenizer or settings and do not care
what it tells.

A step of the demo takes eight times as long as one of the tiny models. A conftest.py that names the fixture
`small_demo` gives its folder's tests this one, wherever the package finds its demo in the tests' process.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from elm_mlx.demo import demo_directory

LAYERS = 2


def write(folder: Path) -> Path:
    """Writes the small demo into a new folder and returns the folder."""
    whole = demo_directory()
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("__pycache__", "*.py", "model.safetensors*"))
    shutil.copytree(whole / "draft", folder / "draft", dirs_exist_ok=True)
    raw: dict[str, Any] = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    lists = ("ffn_multipliers", "num_query_heads", "num_kv_heads")
    raw |= {"num_transformer_layers": LAYERS} | {name: raw[name][:LAYERS] for name in lists}
    raw["qkv_multipliers"] = [heads * raw["head_dim"] / raw["model_dim"] for heads in raw["num_query_heads"]]
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    weights = mx.load(str(whole / "model.safetensors"))
    kept = {name: weight for name, weight in weights.items() if layer_of(name) < LAYERS}
    mx.save_safetensors(str(folder / "model.safetensors"), kept, {"format": "mlx"})
    return folder


def layer_of(name: str) -> int:
    """The number of the layer that a weight is part of; -1 for what is in none."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else -1


@pytest.fixture(scope="session")
def small_demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small demo lies."""
    return write(tmp_path_factory.mktemp("demo") / "demo")


@pytest.fixture(scope="module", autouse=True)
def small_demo(small_demo_folder: Path) -> Iterator[Path]:
    """Puts the small demo in the place of the built-in one while a module's tests run."""
    files = importlib.resources.files
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            importlib.resources, "files", lambda name: small_demo_folder if name == "elm_mlx.demo" else files(name)
        )
        yield small_demo_folder
