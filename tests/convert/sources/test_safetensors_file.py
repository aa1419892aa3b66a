"""The converter's reader of safetensors: whole or by rows, the elements are those that MLX reads."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from elm_mlx.convert import convert
from elm_mlx.convert.sources.safetensors_file import read_safetensors
from elm_mlx.store import weights
from elm_mlx.store.weights import DTYPES

SHAPES: list[tuple[int, ...]] = [(), (1,), (7,), (0, 3), (5, 3), (4, 2, 3)]


def same(a: mx.array, b: mx.array) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and bool(mx.all(a == b).item())


def test_every_type_and_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {f"{d}{s}": mx.random.uniform(0, 200, s).astype(d) for d in DTYPES.values() for s in SHAPES}
    mx.save_safetensors(str(tmp_path / "a.safetensors"), arrays)
    monkeypatch.setattr(weights, "BLOCK_ELEMENTS", 6)  # two rows or so
    found = read_safetensors(tmp_path / "a.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert same(found[name].read(), array), name
        if array.size and array.shape:
            blocks = [*found[name].blocks()]
            assert same(mx.concatenate(blocks), array), name
            assert len(blocks) > 1 or array.size < 7


def test_an_odd_header_moves_no_element(tmp_path: Path) -> None:
    """The format asks for aligned data and files have been written without."""
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    for blanks in range(8):
        raw = header + b" " * blanks
        data = len(raw).to_bytes(8, "little") + raw + bytes(mx.array([1.5, -2.5]))
        (tmp_path / "a.safetensors").write_bytes(data)
        assert read_safetensors(tmp_path / "a.safetensors")["a"].read().tolist() == [1.5, -2.5]


@pytest.mark.parametrize("how", [{}, {"dtype": "float16"}, {"bits": 4, "group_size": 32}, {"mode": "mxfp4"}], ids=str)
def test_blocks_of_rows_change_no_byte(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, object]
) -> None:
    whole = convert(openelm, tmp_path / "whole", **how).output  # type: ignore[arg-type]
    monkeypatch.setattr(weights, "BLOCK_ELEMENTS", 1000)
    blocks = convert(openelm, tmp_path / "blocks", **how).output  # type: ignore[arg-type]
    assert (whole / "model.safetensors").read_bytes() == (blocks / "model.safetensors").read_bytes()
