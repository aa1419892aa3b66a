"""BitNet's ternary matrices: the bytes of the published file are the numbers that run, in two bits each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, relatives

from elm_mlx.config import config_from_dict
from elm_mlx.convert import convert
from elm_mlx.convert.sources import open_source
from elm_mlx.errors import BadCheckpoint, Unsupported
from elm_mlx.models import build
from elm_mlx.models.parameters import Parameters
from elm_mlx.store.load import load_directory

GROUPS = {128: 128, 192: 64}  # by the columns of a matrix


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return relatives.write_bitnet(tmp_path_factory.mktemp("bitnet") / "source")


def with_settings(source: Path, folder: Path, **settings: Any) -> Path:
    """A copy of the checkpoint with other settings in its `quantization_config`."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    raw = json.loads((source / "config.json").read_text(encoding="utf-8"))
    raw["quantization_config"] |= settings
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return folder


def test_every_matrix_is_packed_in_its_own_numbers(source: Path) -> None:
    opened, values = open_source(source), relatives.bitnet_arrays()[1]
    packed = {name: tensor.packed for name, tensor in opened.tensors.items() if tensor.packed}
    assert packed.keys() == {name for name in values if name.endswith("_proj.weight")}
    assert opened.kept_dtype == "bfloat16"  # in which the published scales are: no bit of them changes
    for name, matrix in packed.items():
        parts, setting = matrix.read(), matrix.setting
        assert (setting.bits, setting.group_size) == (2, GROUPS[values[name].shape[1]])
        kept = [parts["weight"], *(parts[part].astype(mx.bfloat16) for part in ("scales", "biases"))]
        expanded = mx.dequantize(*kept, setting.group_size, setting.bits, dtype=mx.float32)
        assert (np.array(expanded) == values[name]).all()
        assert (np.array(opened.tensors[name].read()) == values[name]).all()


def test_converted_it_computes_what_its_plain_numbers_do_and_loses_nothing(source: Path, tmp_path: Path) -> None:
    done = convert(source, tmp_path / "out")
    record = json.loads((done.output / "conversion.json").read_text(encoding="utf-8"))
    assert record["kept"]["largest_error"] == 0.0
    loaded = load_directory(done.output)
    stored = mx.load(str(done.output / "model.safetensors"))
    assert isinstance(stored, dict)
    assert stored["model.layers.0.self_attn.q_proj.weight"].dtype == mx.uint32
    config = config_from_dict(relatives.BITNET)
    plain = build(
        config, Parameters({n: mx.array(v) for n, v in relatives.bitnet_arrays()[1].items()}, None, mx.float32)
    )
    ids = mx.array([checkpoints.prompt(24)])
    a, b = loaded.model(ids).astype(mx.float32), plain(ids)
    assert float(mx.abs(a - b).max()) < 0.02 * float(mx.abs(b).max())  # the activations are in 16 bits
    assert loaded.config.to_dict() == config.to_dict()


def test_master_weights_are_rounded_as_the_reference_does_when_it_runs(source: Path, tmp_path: Path) -> None:
    """With quantization_mode "online" the file holds what was trained, and every run makes -1, 0 and 1 of it."""
    folder = with_settings(source, tmp_path / "online", quantization_mode="online")
    arrays = checkpoints.weights(relatives.BITNET)
    checkpoints.save(folder, {name: mx.array(array).astype(mx.bfloat16) for name, array in arrays.items()})
    tensors = open_source(folder).tensors
    name = "model.layers.1.mlp.down_proj.weight"
    weight = np.array(mx.array(arrays[name]).astype(mx.bfloat16).astype(mx.float32))
    mean = np.abs(weight).mean(dtype=np.float32)
    scale = np.array(mx.array(mean).astype(mx.bfloat16).astype(mx.float32))
    assert np.array_equal(np.array(tensors[name].read()), np.clip(np.round(weight / mean), -1, 1) * scale)
    assert tensors[name].packed
    assert {n for n, t in tensors.items() if t.packed} == {n for n in arrays if n.endswith("_proj.weight")}


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"linear_class": "bitlinear"}, "bitlinear"), ({"linear_class": None}, "bitlinear"),
     ({"use_rms_norm": True}, "use_rms_norm"), ({"quantization_mode": "later"}, "later")],
)  # fmt: skip
def test_other_forms_of_its_layers_are_refused_by_name(
    source: Path, tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(Unsupported, match=named):
        open_source(with_settings(source, tmp_path / "other", **settings))


@pytest.mark.parametrize("change", ["scale", "type", "missing", "columns"])
def test_parts_that_do_not_fit_are_refused_by_name(source: Path, tmp_path: Path, change: str) -> None:
    folder, (arrays, _) = with_settings(source, tmp_path / "broken"), relatives.bitnet_arrays()
    name = "model.layers.0.mlp.up_proj.weight"
    if change == "scale":
        arrays[f"{name}_scale"] = mx.ones((2,))
    elif change == "type":
        arrays[name] = arrays[name].astype(mx.float32)
    elif change == "missing":
        del arrays[name]
    else:
        arrays[name] = arrays[name][:, :100]
    checkpoints.save(folder, arrays)
    with pytest.raises(BadCheckpoint, match="up_proj"):
        open_source(folder)


def test_as_published_it_is_said_to_need_a_conversion(source: Path) -> None:
    with pytest.raises(Unsupported, match="elm-mlx convert"):
        load_directory(source)
