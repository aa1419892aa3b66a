"""What MLX has written is expanded, quantized anew, or said to be there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert import convert
from elm_mlx.convert.sources import open_source
from elm_mlx.errors import BadCheckpoint, InvalidRequest, MissingTokenizer


def logits(model: Path) -> np.ndarray:
    return np.array(elm_mlx.load(model).logits(checkpoints.prompt()))


def written(output: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((output / "config.json").read_text(encoding="utf-8"))
    return config


@pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
@pytest.mark.parametrize("how", [{"bits": 3, "group_size": 32}, {"bits": 8}, {"mode": "mxfp4"}, {"mode": "mxfp8"},
                                 {"mode": "nvfp4"}], ids=str)  # fmt: skip
def test_a_quantized_source_is_expanded_exactly(source: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    quantized = convert(source, tmp_path / "q", dtype="float16", **how).output
    done = convert(quantized, tmp_path / "out", dtype="float32")
    assert np.array_equal(logits(done.output), logits(quantized))
    assert done.layout == f"MLX, {how.get('bits', 4 if how.get('mode') != 'mxfp8' else 8)}-bit"
    assert "quantization" not in written(done.output)


def test_a_quantized_source_is_quantized_anew(openelm: Path, tmp_path: Path) -> None:
    quantized = convert(openelm, tmp_path / "q", bits=8, group_size=32).output
    plain = convert(quantized, tmp_path / "plain", dtype="float32").output
    expected = convert(plain, tmp_path / "expected", bits=4, group_size=32, dtype="float16").output
    found = convert(quantized, tmp_path / "found", bits=4, group_size=32, dtype="float16").output
    for file in ("model.safetensors", "config.json"):
        assert (found / file).read_bytes() == (expected / file).read_bytes()


@pytest.mark.slow
def test_settings_of_single_weights_are_followed(tmp_path: Path) -> None:
    """As mlx-lm's mixed recipes write them."""
    from helpers.mlx_lm_alone import mlx_lm

    plain = checkpoints.write(tmp_path / "plain", checkpoints.LLAMA)
    how = {"quantize": True, "quant_predicate": "mixed_3_4", "q_group_size": 32}
    mlx_lm.convert(str(plain), mlx_path=str(tmp_path / "mixed"), **how)
    mixed = tmp_path / "mixed"
    settings = written(mixed)["quantization"].values()
    assert {setting["bits"] for setting in settings if isinstance(setting, dict)} == {3, 4}
    output = convert(mixed, tmp_path / "out", dtype="float32").output
    assert np.array_equal(logits(output), logits(mixed))
    assert not open_source(mixed).is_already(Quantization(4, 32), mx.bfloat16)
    assert open_source(mixed).config == open_source(plain).config


@pytest.mark.parametrize(
    "how",
    [{}, {"dtype": "float16"}, {"bits": 4}, {"bits": 4, "group_size": 32, "dtype": "float16"}, {"mode": "nvfp4"}],
    ids=str,
)
def test_what_is_done_already_is_said_and_not_done_again(openelm: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    output = convert(openelm, tmp_path / "out", **how).output
    with pytest.raises(InvalidRequest, match=r"is an MLX model already, stored as you ask"):
        convert(output, tmp_path / "again", **how)
    assert not (tmp_path / "again").exists()
    convert(output, tmp_path / "tokenizer", tokenizer=openelm, **how)
    convert(output, tmp_path / "other", bits=6)
    (output / "tokenizer.json").unlink()  # and so it does not run
    with pytest.raises(MissingTokenizer):
        convert(output, tmp_path / "again", **how)


def test_files_of_another_size_are_made_where_they_are_asked_for(openelm: Path, tmp_path: Path) -> None:
    output = convert(openelm, tmp_path / "out").output
    small = convert(output, tmp_path / "small", max_shard_size=0.0002).output
    assert len([*small.glob("model-*.safetensors")]) > 1
    for place, size in ((output, None), (output, 1.0), (small, None), (small, 0.0002)):
        with pytest.raises(InvalidRequest, match="already"):
            convert(place, tmp_path / "again", max_shard_size=size)
    whole = convert(small, tmp_path / "whole", max_shard_size=5).output
    assert (whole / "model.safetensors").read_bytes() == (output / "model.safetensors").read_bytes()


def test_a_setting_said_again_for_a_weight_is_no_other(openelm: Path, tmp_path: Path) -> None:
    output = convert(openelm, tmp_path / "out", bits=4).output
    config = written(output)
    config["quantization"]["transformer.layers.0.ffn.proj_1"] = {"bits": 4, "group_size": 64}
    (output / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InvalidRequest, match="already"):
        convert(output, bits=4)


def test_a_hugging_face_source_is_converted_even_to_its_own_type(openelm: Path, tmp_path: Path) -> None:
    assert convert(openelm, tmp_path / "out", dtype="float32").layout == "Hugging Face, safetensors"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("weight", mx.zeros((192, 5), mx.uint32)),
        ("weight", mx.zeros((192, 8), mx.int32)),
        ("weight", mx.zeros((192,), mx.uint32)),
        ("weight", mx.zeros((0, 8), mx.uint32)),
        ("scales", mx.zeros((192, 4))),
        ("scales", mx.zeros((192, 2), mx.uint32)),
        ("scales", mx.zeros(())),
        ("biases", mx.zeros((2, 192))),
        ("biases", None),
        ("weight", None),
        ("scales", None),
    ],
)
def test_parts_that_do_not_fit_are_refused(openelm: Path, tmp_path: Path, part: str, value: mx.array | None) -> None:
    output = convert(openelm, tmp_path / "q", bits=4, group_size=32).output
    arrays = mx.load(str(output / "model.safetensors"))
    assert isinstance(arrays, dict)
    name = f"transformer.layers.0.attn.qkv_proj.{part}"
    changed = {key: array for key, array in arrays.items() if key != name} | ({} if value is None else {name: value})
    mx.save_safetensors(str(output / "model.safetensors"), changed)
    (output / "model.safetensors.index.json").unlink()
    with pytest.raises(BadCheckpoint, match="qkv_proj"):
        convert(output, tmp_path / "out")
