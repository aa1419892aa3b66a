"""Weights that layers share: MobileLLM's blocks that run twice, MobiLlama's one feed-forward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, relatives

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.convert.verify import verify
from elm_mlx.errors import BadCheckpoint, InvalidRequest, Unsupported
from elm_mlx.store.load import load_arrays, read_config

TWINS = {"mobillama": relatives.MOBILLAMA, "mobilellm-ls": relatives.MOBILELLM_LS}


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in load_arrays(folder, read_config(folder))[0].items()}


def raw_of(folder: Path) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return raw


def write_relative(folder: Path, name: str) -> Path:
    if name == "mobillama":
        return relatives.write_mobillama(folder, "bin")
    return relatives.write_bin(folder, TWINS[name], checkpoints.weights(TWINS[name]))


@pytest.mark.parametrize("kind", ["bin", "copies", "once"])
def test_a_feed_forward_of_all_layers_is_stored_once(tmp_path: Path, kind: str) -> None:
    source = relatives.write_mobillama(tmp_path / "source", kind)
    done = convert(source, tmp_path / "out", dtype="float32")
    expected = checkpoints.weights(relatives.MOBILLAMA)
    if kind == "bin":
        expected = {name: array.astype(np.float16).astype(np.float32) for name, array in expected.items()}
    found = arrays_of(done.output)
    assert found.keys() == expected.keys()
    assert all((found[name] == array).all() for name, array in expected.items())
    assert raw_of(done.output)["model_type"] == "mobillama"
    assert "mlx_lm" not in (done.output / "README.md").read_text(encoding="utf-8")  # it could not load this
    assert done.dropped == ([] if kind == "once" else ["6 copies of the feed-forward"])
    assert "one feed-forward" in done.layout


def test_one_that_is_left_under_one_layers_name_is_said_to_need_a_conversion(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"one feed-forward.*elm-mlx convert"):
        elm_mlx.load(relatives.write_mobillama(tmp_path / "source", "once"))


def test_the_shape_is_that_of_the_tensors_where_config_json_says_another(tmp_path: Path) -> None:
    source = relatives.write_mobillama(tmp_path / "source", "bin")
    raw = raw_of(source) | {"num_hidden_layers": 8, "intermediate_size": 64}  # as beside its training code
    (source / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    out = raw_of(convert(source, tmp_path / "out").output)
    assert (out["num_hidden_layers"], out["intermediate_size"]) == (3, 128)


def test_feed_forwards_that_differ_in_one_number_stay_a_llama(tmp_path: Path) -> None:
    twin = relatives.written_out(relatives.MOBILLAMA, checkpoints.weights(relatives.MOBILLAMA))
    twin = {name: array.copy() for name, array in twin.items()}
    twin["model.layers.2.mlp.down_proj.weight"][-1, -1] += 1
    source = relatives.write_plain(tmp_path / "source", relatives.MOBILLAMA)
    checkpoints.save(source, {name: mx.array(array) for name, array in twin.items()})
    assert raw_of(convert(source, tmp_path / "out").output)["model_type"] == "llama"
    (source / "config.json").write_text(json.dumps(raw_of(source) | {"model_type": "mobillama"}), encoding="utf-8")
    with pytest.raises(BadCheckpoint, match="those in the weights differ"):
        convert(source, tmp_path / "again")


def test_feed_forwards_of_one_number_are_no_copies(tmp_path: Path) -> None:
    """Weights that are all zeros say nothing of what their publisher meant."""
    raw = checkpoints.LLAMA
    source = checkpoints.write(tmp_path / "source", raw)
    zeros = {name: mx.array(array) * (".mlp." not in name) for name, array in checkpoints.weights(raw).items()}
    checkpoints.save(source, zeros)
    assert raw_of(convert(source, tmp_path / "out").output)["model_type"] == "llama"


@pytest.mark.parametrize("name", TWINS)
def test_unshared_it_is_the_plain_llama(tmp_path: Path, name: str) -> None:
    source = write_relative(tmp_path / "source", name)
    done = convert(source, tmp_path / "out", dtype="float16", unshare=True)
    twin = relatives.written_out(TWINS[name], checkpoints.weights(TWINS[name]))
    found = arrays_of(done.output)
    assert found.keys() == twin.keys()
    assert all((found[tensor] == array.astype(np.float16)).all() for tensor, array in twin.items())
    raw = raw_of(done.output)
    assert (raw["model_type"], raw["num_hidden_layers"]) == ("llama", 6 if "ls" in name else 3)
    assert not {"layer_sharing", "share_embedding", "auto_map"} & raw.keys()
    assert "mlx_lm.generate" in (done.output / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("unshare", [False, True])
def test_it_is_verified_against_its_source_as_it_was_converted(tmp_path: Path, name: str, unshare: bool) -> None:
    source = write_relative(tmp_path / "source", name)
    out = convert(source, tmp_path / "out", dtype="float16", unshare=unshare).output
    report = verify(out, source, tokens=64)
    assert report.passed
    assert report.kl_divergence < 1e-6


def test_unshare_is_refused_where_nothing_is_shared(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "source", checkpoints.LLAMA)
    with pytest.raises(InvalidRequest, match="share weights"):
        convert(source, tmp_path / "out", unshare=True)


@pytest.mark.parametrize("name", TWINS)
def test_a_calibration_of_shared_weights_is_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    source = write_relative(tmp_path / "source", name)
    with pytest.raises(InvalidRequest, match="share weights") as refused:
        convert(source, tmp_path / "out", bits=4, group_size=32, calibrate=True, calibrate_tokens=512)
    assert "unshare" in refused.value.advice


def test_mobilellm_is_a_llama_whose_output_is_its_embedding(tmp_path: Path) -> None:
    source = relatives.write_bin(tmp_path / "source", relatives.MOBILELLM, checkpoints.weights(relatives.MOBILELLM))
    raw = raw_of(convert(source, tmp_path / "out").output)
    assert (raw["model_type"], raw["tie_word_embeddings"], raw["num_hidden_layers"]) == ("llama", True, 3)
    assert "auto_map" not in raw


def test_a_converted_mobilellm_ls_says_so_and_its_figures_count_layers(tmp_path: Path) -> None:
    source = write_relative(tmp_path / "source", "mobilellm-ls")
    out = convert(source, tmp_path / "out", bits=4, group_size=32).output
    raw = raw_of(out)
    assert (raw["model_type"], raw["layer_sharing"], raw["num_hidden_layers"]) == ("mobilellm", True, 3)
    info, twin = elm_mlx.info(out), elm_mlx.info(relatives.write_plain(tmp_path / "twin", relatives.MOBILELLM_LS))
    assert info.kv_bytes_per_token == twin.kv_bytes_per_token / 2  # of 16 bits, not 32
    assert info.parameters < twin.parameters


@pytest.mark.parametrize("change", ["no up_proj", "no matrix", "empty", "one layer less"])
def test_a_feed_forward_with_a_piece_missing_is_a_sentence(tmp_path: Path, change: str) -> None:
    source = relatives.write_mobillama(tmp_path / "source", "copies")
    arrays = mx.load(str(source / "model.safetensors"))
    assert isinstance(arrays, dict)
    for name in [name for name in arrays if name.endswith("mlp.up_proj.weight")]:
        if change == "no up_proj" or (change == "one layer less" and ".layers.1." in name):
            del arrays[name]
        elif change != "one layer less":
            arrays[name] = arrays[name][0] if change == "no matrix" else arrays[name][:0]
    checkpoints.save(source, arrays)
    with pytest.raises(BadCheckpoint, match="up_proj"):
        convert(source, tmp_path / "out")
