"""BitNet's ternary matrices: the bytes of the published file are the numbers that run, in two bits each."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, relatives

from elm_mlx.convert.sources import open_source
from elm_mlx.errors import BadCheckpoint, Unsupported
from elm_mlx.store.load import read_config


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return relatives.write_bitnet(tmp_path_factory.mktemp("bitnet") / "source")


def changed(source: Path, folder: Path, **settings: object) -> Path:
    """A copy of the checkpoint with other settings in its `quantization_config`."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    raw = json.loads((source / "config.json").read_text(encoding="utf-8"))
    raw["quantization_config"] |= settings
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return folder


def test_every_matrix_is_packed_in_its_own_numbers_and_nothing_is_lost(source: Path) -> None:
    opened, values = open_source(source), relatives.bitnet_arrays()[1]
    packed = {name: tensor.packed for name, tensor in opened.tensors.items() if tensor.packed}
    assert packed.keys() == {name for name in values if name.endswith("_proj.weight")}
    assert opened.kept_dtype == "bfloat16"  # in which the published scales are: no bit of them changes
    for name, matrix in packed.items():
        parts, setting = matrix.read(), matrix.setting
        assert (setting.bits, setting.group_size) == (2, 64 if values[name].shape[1] == 96 * 2 else 128 if values[name].shape[1] % 128 == 0 else 32)
        kept = [parts["weight"], *(parts[part].astype(mx.bfloat16) for part in ("scales", "biases"))]
        expanded = mx.dequantize(*kept, setting.group_size, setting.bits, dtype=mx.float32)
        assert (np.array(expanded) == values[name]).all()
        assert (np.array(opened.tensors[name].read()) == values[name]).all()
