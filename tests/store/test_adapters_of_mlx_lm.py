"""mlx-lm's adapters run here, and ours run there, with the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.adapters import made_sums, write_sums
from mlx.utils import tree_flatten

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.train import train

pytestmark = pytest.mark.slow
each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
each_kind = pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
IDS = checkpoints.prompt(40)
BOUND = 1e-4  # of the largest logit


@pytest.fixture(scope="module")
def plain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the lists in its config.json that mlx-lm needs."""
    return convert(source, tmp_path_factory.mktemp("plain") / "model", dtype="float32").output


def theirs(source: Path) -> Any:
    """The model of mlx-lm."""
    from mlx_lm.utils import load_model

    return load_model(source)[0]


def assert_near(ours: mx.array, other: mx.array) -> None:
    assert mx.abs(ours - other).max() <= BOUND * mx.abs(other).max()


@each_family
@each_kind
def test_an_adapter_of_mlx_lm_runs_here(plain: Path, dora: bool, tmp_path: Path) -> None:
    from mlx_lm.tuner.utils import linear_to_lora_layers

    settings = {"rank": 3, "scale": 4.0, "dropout": 0.0}
    model = theirs(plain)
    model.freeze()
    linear_to_lora_layers(model, 2, settings, use_dora=dora)
    trained = dict(tree_flatten(model.trainable_parameters()))
    for number, (name, array) in enumerate(trained.items()):
        if name.endswith("lora_b"):
            trained[name] = 0.1 * mx.random.normal(array.shape, key=mx.random.key(number))
    model.load_weights(list(trained.items()), strict=False)
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), trained)
    facts = {"fine_tune_type": "dora" if dora else "lora", "num_layers": 2, "lora_parameters": settings}
    (tmp_path / "adapter_config.json").write_text(json.dumps(facts))
    with elm_mlx.load(plain) as lm:
        lm.load_adapter("theirs", tmp_path)
        assert_near(lm.logits(IDS, adapter="theirs"), model(mx.array([IDS]))[0])


@each_family
@each_kind
def test_our_adapter_runs_there(plain: Path, dora: bool, tmp_path: Path) -> None:
    from mlx_lm.tuner.utils import load_adapters

    write_sums(tmp_path, plain, made_sums(plain, dora=dora), scale=0.5)
    model = load_adapters(theirs(plain), str(tmp_path))
    with elm_mlx.load(plain) as lm:
        lm.load_adapter("ours", tmp_path)
        assert_near(lm.logits(IDS, adapter="ours"), model(mx.array([IDS]))[0])


@each_family
@each_kind
@pytest.mark.parametrize("part", [{}, {"layers": 1, "targets": ("out_proj", "o_proj")}], ids=["all", "some"])
def test_what_train_writes_runs_there(plain: Path, dora: bool, part: dict[str, Any], tmp_path: Path) -> None:
    from mlx_lm.tuner.utils import load_adapters

    (tmp_path / "train.jsonl").write_text('{"text": "a b c"}\n', encoding="utf-8")
    kind = "dora" if dora else "lora"
    train(tmp_path, tmp_path / "out", plain, kind=kind, steps=3, learning_rate=0.01, **part)
    before = theirs(plain)(mx.array([IDS]))[0]
    after = load_adapters(theirs(plain), str(tmp_path / "out"))(mx.array([IDS]))[0]
    assert mx.abs(after - before).max() > 0.01 * mx.abs(before).max()
    with elm_mlx.load(plain) as lm:
        lm.load_adapter("ours", tmp_path / "out")
        assert_near(lm.logits(IDS, adapter="ours"), after)
