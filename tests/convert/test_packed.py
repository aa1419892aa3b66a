"""Matrices that a source has in few bits stay as they are, unless another form is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import mlx.core as mx
import pytest

import elm_mlx.convert as conversion
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert import convert
from elm_mlx.convert.kept import gap_and_size, kept_quantization
from elm_mlx.convert.packed import Packed
from elm_mlx.convert.sources import open_source
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.store.weights import gather, read_arrays

SETTING = Quantization(4, 32)


def packed(tensor: LazyTensor, setting: Quantization = SETTING) -> LazyTensor:
    """A matrix that its source has in 4 bits: its plain numbers are the expanded ones."""
    parts = mx.quantize(tensor.read().astype(mx.float32), group_size=setting.group_size, bits=setting.bits)
    plain = mx.dequantize(*parts, group_size=setting.group_size, bits=setting.bits)
    named = dict(zip(("weight", "scales", "biases"), parts, strict=True))
    return LazyTensor(tensor.shape, mx.float32, lambda: plain, Packed(setting, lambda: named))


@pytest.fixture
def packed_source(openelm, monkeypatch):
    """A checkpoint whose attention matrices are packed, and its path."""

    def open_packed(where, **options):
        source = open_source(where, **options)
        tensors = {n: packed(t) if "qkv_proj" in n else t for n, t in source.tensors.items()}
        return replace(source, tensors=tensors)

    monkeypatch.setattr(conversion, "open_source", open_packed)
    return openelm, open_packed


def read(directory):
    """The tensors of an output."""
    return {n: array for n, (_, array) in gather(directory, ["model.safetensors"], read_arrays).items()}


def test_packed_matrices_are_kept_to_the_bit_where_no_form_is_asked_for(packed_source, tmp_path):
    source, opened = packed_source
    done = convert(source, tmp_path / "out")
    assert done.kept
    assert done.kept["matrices"] > 0
    assert done.kept["largest_error"] < 1e-3
    tensors = opened(source).tensors
    name = next(n for n, t in tensors.items() if t.packed)
    stored = read(tmp_path / "out")
    assert mx.array_equal(stored[name], tensors[name].packed.read()["weight"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization"]["bits"] == 4
    assert config["quantization"]["transformer.token_embeddings"] is False
    assert "kept in few bits" in (tmp_path / "out" / "README.md").read_text()


def test_a_form_that_is_asked_for_quantizes_packed_matrices_anew(packed_source, tmp_path):
    source, _ = packed_source
    assert convert(source, tmp_path / "plain", dtype="float32").kept is None
    assert not any(name.endswith("scales") for name in read(tmp_path / "plain"))
    convert(source, tmp_path / "eight", bits=8, group_size=32)
    assert json.loads((tmp_path / "eight" / "config.json").read_text())["quantization"]["bits"] == 8


def test_a_killed_run_goes_on_with_the_same_bytes(packed_source, tmp_path, monkeypatch):
    source, _ = packed_source
    convert(source, tmp_path / "whole")
    count = iter(range(5))

    def stop(*_):
        if next(count, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "cut", progress=stop)
    convert(source, tmp_path / "cut")
    for name in ("model.safetensors", "conversion.json", "config.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_most_matrices_decide_the_setting_and_others_override_it():
    matrix = LazyTensor((4, 64), mx.float32, partial(mx.zeros, (4, 64)))
    eight = Quantization(8, 32)
    tensors = {"a.weight": packed(matrix), "b.weight": packed(matrix), "c.weight": packed(matrix, eight),
               "d.weight": matrix, "n.weight": LazyTensor((4,), mx.float32, partial(mx.zeros, (4,)))}  # fmt: skip
    assert kept_quantization(tensors) == replace(SETTING, overrides={"c": eight, "d": None})
    assert kept_quantization({"d.weight": matrix}) is None


def test_what_is_lost_is_measured_by_squares():
    there = mx.array([[3.0, 4.0]])
    assert gap_and_size([there], [there]) == (0.0, 25.0)
    assert gap_and_size([mx.array([[3.0, 3.0]])], [there]) == (1.0, 25.0)
