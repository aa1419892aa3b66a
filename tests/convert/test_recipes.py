"""Mixed recipes put bits where the demo needs them, fit both families, and load in mlx-lm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.cli import run
from elm_mlx.config import config_from_dict
from elm_mlx.config.quantization import RECIPES
from elm_mlx.convert import Conversion, convert, recipes
from elm_mlx.errors import InvalidRequest
from elm_mlx.models.matrices import QuantizedLinear

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples/demo_model/demo"
DEEP = {  # 16 layers: two first ones, two last ones; groups of 64 divide every matrix
    "openelm": checkpoints.OPENELM | {"num_transformer_layers": 16, "head_dim": 64, "ffn_dim_divisor": 64,
                                      "num_gqa_groups": 1},
    "llama": checkpoints.LLAMA | {"num_hidden_layers": 16, "hidden_size": 128, "head_dim": 32,
                                  "num_attention_heads": 4},
}  # fmt: skip
HEADS = {"openelm": ["transformer.token_embeddings"], "llama": ["model.embed_tokens", "lm_head"]}
LAYER = {"openelm": ["attn.qkv_proj", "attn.out_proj", "ffn.proj_1", "ffn.proj_2"],
         "llama": [*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down"))],
}  # fmt: skip
GATES = ("proj_1", "gate_proj", "up_proj")


def bits_of(recipe: str, raw: dict[str, Any]) -> dict[str, int]:
    """The bits that a recipe gives each matrix, by the end of its name: layers.3.mlp.up_proj, lm_head."""
    config = config_from_dict(raw)
    settings = recipes.quantization(recipe, config)
    found = {name: settings.of(name, shape) for name, shape in config.weight_shapes().items()}
    return {name.removesuffix(".weight"): how.bits for name, how in found.items() if how}


def log_probabilities(directory: Path) -> mx.array:
    """log p of every token after every prefix of a held-out story's beginning: [40, V]."""
    lm = elm_mlx.load(directory)
    text = (ROOT / "elm_mlx/demo/held_out.txt").read_text(encoding="utf-8").splitlines()[-1]
    logits = lm.logits(lm.tokenizer.encode(text)[:40])
    return logits - mx.logsumexp(logits, -1, keepdims=True)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> mx.array:
    """What the demo says in float32."""
    return log_probabilities(convert(DEMO, tmp_path_factory.mktemp("exact") / "out", dtype="float32").output)


@pytest.mark.parametrize("family", list(DEEP))
def test_a_recipe_gives_most_bits_to_the_head_and_the_edges_and_fewest_to_the_gates_between(family: str) -> None:
    stem = {"openelm": "transformer", "llama": "model"}[family]
    expected = dict.fromkeys(HEADS[family], 5)
    for layer in range(16):
        for name in LAYER[family]:
            is_gate = name.endswith(GATES)
            bits = 5 if layer < 2 else (4 if is_gate else 5) if layer >= 14 else (3 if is_gate else 4)
            expected[f"{stem}.layers.{layer}.{name}"] = bits
    assert bits_of("mixed-3-5", DEEP[family]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["mixed-3-5", "mixed-2-4", "mixed-4-6"])
def test_a_recipe_is_smaller_than_uniform_and_loses_less_on_the_demo(
    recipe: str, exact: mx.array, tmp_path: Path
) -> None:
    mixed = convert(DEMO, tmp_path / "mixed", recipe=recipe)
    uniform = convert(DEMO, tmp_path / "uniform", bits=RECIPES[recipe][1])
    assert mixed.bits_per_weight < uniform.bits_per_weight
    stored = [log_probabilities(done.output) for done in (mixed, uniform)]
    lost = [float((mx.exp(exact) * (exact - q)).sum(-1).mean()) for q in stored]
    assert lost[0] < 0.8 * lost[1]


@pytest.mark.slow
@pytest.mark.parametrize("family", list(DEEP))
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_mlx_lm_loads_a_mixed_model_with_equal_logits(family: str, recipe: str, tmp_path: Path) -> None:
    from helpers.mlx_lm_alone import load_model

    source = checkpoints.write(tmp_path / "source", DEEP[family])
    output = convert(source, tmp_path / "out", recipe=recipe, dtype="float32").output
    theirs, _ = load_model(output)
    ids = checkpoints.prompt(40)
    expected = theirs(mx.array([ids]))[0]
    ours = elm_mlx.load(output, cpu_policy="plain").logits(ids)
    assert float(mx.abs(ours - expected).max()) <= 1e-4 * float(mx.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openelm", "llama-3.1"])
def test_rows_that_no_group_divides_are_left_out_of_the_settings(name: str, tmp_path: Path) -> None:
    """mlx-lm demands the scales of every weight that config.json names."""
    from helpers.mlx_lm_alone import load_model

    source = checkpoints.write(tmp_path / "source", checkpoints.CONFIGS[name])
    done = convert(source, tmp_path / "out", recipe="mixed-2-4", dtype="float32")
    named = json.loads((done.output / "config.json").read_text(encoding="utf-8"))["quantization"]
    stored: Any = mx.load(str(done.output / "model.safetensors"))
    plain = {key.removesuffix(".weight") for key in stored} - {key.removesuffix(".scales") for key in stored}
    assert not plain & named.keys()
    load_model(done.output)


def test_bits_per_weight_are_those_of_the_files(tmp_path: Path) -> None:
    done: Conversion = convert(DEMO, tmp_path / "out", recipe="mixed-3-5")
    stored: Any = mx.load(str(done.output / "model.safetensors"))
    nbytes = sum(array.nbytes for array in stored.values())
    assert (done.bytes, done.bits_per_weight) == (nbytes, 8 * nbytes / done.parameters)
    assert elm_mlx.info(done.output).bits_per_weight == done.bits_per_weight
    assert 4.3 < done.bits_per_weight < 4.6


def test_a_mixed_llama_keeps_its_fused_products(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "source", DEEP["llama"])
    model = elm_mlx.load(convert(source, tmp_path / "out", recipe="mixed-2-4").output, cpu_policy="plain").model
    for block in model.blocks:
        assert isinstance(block.attn.qkv, QuantizedLinear)  # type: ignore[attr-defined]
        assert isinstance(block.ffn.gate_up, QuantizedLinear)


def test_the_default_output_carries_the_recipe_and_info_plan_and_card_its_bits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = checkpoints.write(tmp_path / "OpenELM-270M", checkpoints.CONFIGS["openelm"])
    assert convert(source, recipe="mixed-4-6").output == tmp_path / "OpenELM-270M-mlx-mixed-4-6"
    shutil.rmtree(tmp_path / "OpenELM-270M-mlx-mixed-4-6")
    assert run(["convert", str(source), "--recipe", "mixed-4-6", "--dry-run"]) == 0
    assert "affine 4- to 6-bit in groups of 64" in capfd.readouterr().out
    assert run(["convert", str(source), "--recipe", "mixed-4-6"]) == 0
    assert "affine 4- to 6-bit in groups of 64" in (tmp_path / "OpenELM-270M-mlx-mixed-4-6" / "README.md").read_text()
    assert run(["info", str(tmp_path / "OpenELM-270M-mlx-mixed-4-6")]) == 0
    assert "affine 4- to 6-bit in groups of 64" in capfd.readouterr().out


@pytest.mark.parametrize("family", list(DEEP))
@pytest.mark.parametrize("target", [3.8, 4.5, 5.0, 7.3])
def test_a_target_is_reached_and_not_passed(family: str, target: float) -> None:
    config = config_from_dict(DEEP[family])
    settings = recipes.quantization_of_size(target, config, mx.bfloat16)
    assert target - 0.1 < recipes.bits_per_weight(settings, config, mx.bfloat16) <= target


def test_more_bits_go_to_the_gates_first_and_to_one_product_alike() -> None:
    config = config_from_dict(DEEP["llama"])
    small = recipes.bits_per_weight(recipes.quantization("mixed-2-4", config), config, mx.bfloat16)
    settings = recipes.quantization_of_size(small + 0.2, config, mx.bfloat16)
    bits = {name: settings.setting(name.removesuffix(".weight")).bits for name in recipes.levels(config)}
    gates = [bits[f"model.layers.{layer}.mlp.gate_proj.weight"] for layer in range(2, 14)]
    assert gates == sorted(gates, reverse=True)
    assert set(gates) == {2, 3}
    assert [bits[name.replace("gate_proj", "up_proj")] for name in bits if "gate_proj" in name] == [
        bits[name] for name in bits if "gate_proj" in name
    ]


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_the_size_of_a_recipe_as_the_target_gives_the_recipe(recipe: str) -> None:
    config = config_from_dict(DEEP["openelm"])
    settings = recipes.quantization(recipe, config)
    size = recipes.bits_per_weight(settings, config, mx.bfloat16)
    assert recipes.quantization_of_size(size, config, mx.bfloat16) == settings


def test_what_is_written_has_no_more_bits_than_its_target_and_is_called_by_it(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "OpenELM-270M", DEEP["openelm"])
    for dtype in ("bfloat16", "float32"):  # scales take twice as much in float32
        done = convert(source, target_bits=5.0, dtype=dtype, force=True)
        assert done.output == tmp_path / "OpenELM-270M-mlx-5bit-mixed"
        assert 4.8 < done.bits_per_weight <= 5.0


@pytest.mark.parametrize("target", [1.5, 40, float("nan"), True, "4"])
def test_a_target_that_no_bits_reach_is_refused(openelm: Path, tmp_path: Path, target: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"target_bits is .*; it must be"):
        convert(openelm, tmp_path / "out", target_bits=target)


def test_a_target_below_what_the_smallest_recipe_takes_is_refused_with_that(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "source", DEEP["llama"])
    with pytest.raises(InvalidRequest, match=r"target_bits is 2.6, and this model has at least 3\.\d\d bits"):
        convert(source, tmp_path / "out", target_bits=2.6)


@pytest.mark.parametrize("other", [{"bits": 4}, {"group_size": 32}, {"mode": "mxfp4"}, {"recipe": "mixed-3-5"}])
def test_a_target_excludes_what_it_decides_itself(openelm: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="target_bits"):
        convert(openelm, tmp_path / "out", target_bits=4.5, **other)


@pytest.mark.parametrize("other", [{"bits": 4}, {"group_size": 32}, {"mode": "mxfp4"}])
def test_a_recipe_excludes_what_it_decides_itself(openelm: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="mixed-3-5 says how each matrix is stored"):
        convert(openelm, tmp_path / "out", recipe="mixed-3-5", **other)


@pytest.mark.parametrize("name", ["mixed_2_6", "", []])
def test_an_unknown_recipe_is_refused_with_those_there_are(openelm: Path, tmp_path: Path, name: Any) -> None:
    with pytest.raises(InvalidRequest, match="mixed-2-4, mixed-3-5, mixed-4-6"):
        convert(openelm, tmp_path / "out", recipe=name)
