"""What mlx-lm's learned quantization makes of our output loads here and gives mlx-lm's own logits. Its functions run on
a tiny model and local ids, and its own `save` writes the result: no torch, and no calibration data from the hub."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers
import pytest
from helpers import checkpoints
from mlx.utils import tree_flatten

import elm_mlx
from elm_mlx.convert import convert

pytestmark = pytest.mark.parity

GROUP = 32
CONFIGS: dict[str, dict[str, Any]] = {  # groups of 32 divide every matrix: mlx-lm's GPTQ and AWQ demand it
    "llama": checkpoints.LLAMA | {"hidden_size": 64, "head_dim": 16, "num_attention_heads": 4},
    "llama-tied": checkpoints.CONFIGS["llama-3.2"] | {"hidden_size": 64, "head_dim": 16, "num_attention_heads": 4},
    "openelm": checkpoints.OPENELM | {"head_dim": 32, "ffn_dim_divisor": 32, "num_gqa_groups": 2},
}
DATA = [checkpoints.prompt(48, seed) for seed in range(8)]
Learned = tuple[Any, dict[str, Any]]  # a quantized model, and the config.json to save with it


def dwq(model: Any, config: dict[str, Any]) -> Learned:
    """DWQ: the scales, biases and norms of a 4-bit model are trained towards the unquantized model."""
    from mlx_lm.utils import quantize_model

    student, config = quantize_model(copy.deepcopy(model), config, GROUP, 4)
    distil(model, student)
    return student, config


def distil(teacher: Any, student: Any) -> None:
    """Trains `student` towards `teacher` by mlx-lm's DWQ, and asserts that scales and biases were learned."""
    from mlx_lm.quant.dwq import dwq_quantize

    before = dict(tree_flatten(student.parameters()))
    rows = [(ids, 0) for ids in DATA]
    dwq_quantize(
        student, lambda batch, index, split: teacher(batch), mlx.optimizers.Adam(1e-3), rows, rows[:4],
        batch_size=4, max_seq_length=64, seed=0,
    )  # fmt: skip
    after = dict(tree_flatten(student.parameters()))
    changed = {name.rpartition(".")[2] for name in before if not mx.array_equal(before[name], after[name]).item()}
    assert {"scales", "biases"} <= changed


def awq(model: Any, config: dict[str, Any]) -> Learned:
    """AWQ: before rounding, columns are scaled against their norms and clipped; the embedding has its own setting."""
    from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS, awq_quantize, update_config

    how = AWQ_MODEL_CONFIGS[config["model_type"]]
    awq_quantize(model, mx.array(DATA), how, group_size=GROUP, bits=3, embed_group_size=64, embed_bits=4, n_grid=3)
    return model, update_config(model, config)


def gptq(model: Any, config: dict[str, Any]) -> Learned:
    """GPTQ: columns are rounded one by one, and each error moves into later columns; embeddings get 6 bits."""
    from mlx_lm.quant.gptq import gptq_quantize

    model, config["quantization"] = gptq_quantize(model, mx.array(DATA), 4, GROUP, 6, 64)
    return model, config


def dynamic(model: Any, config: dict[str, Any]) -> Learned:
    """Dynamic quantization: the matrices that a gradient finds sensitive get more bits."""
    from mlx_lm.quant.dynamic_quant import estimate_sensitivities, estimate_threshold
    from mlx_lm.utils import quantize_model

    sensitivities = dict(estimate_sensitivities(model, mx.array(DATA), 4, GROUP, 5, GROUP))
    threshold = estimate_threshold(model, sensitivities, 5.5, 4, GROUP, 5, GROUP)

    def predicate(path: str, module: Any) -> bool | dict[str, int]:
        if not hasattr(module, "to_quantized"):
            return False
        return {"bits": 5, "group_size": GROUP} if sensitivities[path] > threshold else True

    return quantize_model(model, config, GROUP, 4, quant_predicate=predicate)


def check(directory: Path, tokenizer: Any) -> None:
    """Loads a directory here and in mlx-lm, and asserts that both give one answer in float32."""
    from mlx_lm.utils import load_model

    theirs, _ = load_model(directory)
    theirs.set_dtype(mx.float32)
    lm, ids = elm_mlx.load(directory), checkpoints.prompt(40, seed=99)
    expected = theirs(mx.array([ids]))[0]
    assert float(mx.abs(lm.logits(ids) - expected).max()) <= 1e-3 * float(mx.abs(expected).max())
    assert lm.tokenizer.encode("Once upon a time") == tokenizer.encode("Once upon a time")
    assert elm_mlx.info(directory).bits_per_weight < 16


@pytest.mark.parametrize(
    ("learn", "name"), [(learn, name) for learn in (dwq, awq, gptq, dynamic) for name in CONFIGS
                        if (learn, name) != (awq, "openelm")],
)  # fmt: skip
def test_what_mlx_lm_learned_loads_here(tmp_path: Path, learn: Callable[[Any, Any], Learned], name: str) -> None:
    from mlx_lm.utils import load, save

    source = checkpoints.write(tmp_path / "source", CONFIGS[name])
    ours = convert(source, tmp_path / "ours").output
    model, tokenizer, config = load(str(ours), return_config=True)
    model, config = learn(model, config)
    save(tmp_path / "learned", ours, model, tokenizer, config)
    check(tmp_path / "learned", tokenizer)


def test_mlx_lms_awq_still_does_not_know_openelm() -> None:
    """Once mlx-lm's AWQ knows OpenELM, docs/quantization.md is out of date, and the test above needs that case."""
    from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS

    assert "openelm" not in AWQ_MODEL_CONFIGS


@pytest.mark.parametrize("name", ["llama", "openelm"])
def test_dwq_goes_on_from_a_recipe_of_ours(tmp_path: Path, name: str) -> None:
    from mlx_lm.utils import load, save

    raw = CONFIGS[name] | ({"num_gqa_groups": 1, "head_dim": 64, "ffn_dim_divisor": 64} if name == "openelm" else {})
    source = checkpoints.write(tmp_path / "source", raw)
    ours = [convert(source, tmp_path / str(recipe), recipe=recipe).output for recipe in (None, "mixed-2-4")]
    teacher, _ = load(str(ours[0]))
    student, tokenizer, config = load(str(ours[1]), return_config=True)
    distil(teacher, student)
    save(tmp_path / "learned", ours[1], student, tokenizer, config)
    check(tmp_path / "learned", tokenizer)
    assert elm_mlx.info(tmp_path / "learned").bits_per_weight == elm_mlx.info(ours[1]).bits_per_weight
