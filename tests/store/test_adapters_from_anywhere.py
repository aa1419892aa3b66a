"""Adapter files from anywhere: links, pipes, devices, names, numbers and headers that no training has written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.adapters import WEIGHTS, arrays_in, change, config_of, made_sums, write_sums

from elm_mlx.errors import BadCheckpoint, ElmError, InvalidRequest, NotEnoughMemory
from elm_mlx.models.lora import LowRank
from elm_mlx.store.adapters.adapter_file import CONFIG_FILE, Base
from elm_mlx.store.adapters.read import check_base, read_adapter
from elm_mlx.store.adapters.write import LAYOUTS, MLX, Written, write_adapter
from elm_mlx.store.fingerprint import weights_fingerprint

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
ENDS = ("attn.out_proj",)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def leads_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def deep(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


@each_layout
@pytest.mark.parametrize("file", ["configuration", "weights"])
@pytest.mark.parametrize("damage", [loop, leads_nowhere, device, pipe, folder, noise, empty, deep])
def test_what_is_no_file_of_an_adapter_is_refused_and_never_waited_for(
    openelm: Path, tmp_path: Path, layout: str, file: str, damage: Callable[[Path], None]
) -> None:
    written = write_sums(tmp_path / "a", openelm, made_sums(openelm, ends=ENDS), layout)
    damage(written / (CONFIG_FILE if file == "configuration" else WEIGHTS[layout]))
    with pytest.raises(ElmError) as caught:
        read_adapter(written, config_of(openelm))
    assert str(tmp_path) in str(caught.value)


@each_layout
def test_links_to_an_adapters_files_are_followed_as_caches_have_them(
    openelm: Path, tmp_path: Path, layout: str
) -> None:
    blobs = write_sums(tmp_path / "blobs", openelm, made_sums(openelm, ends=ENDS), layout)
    (tmp_path / "snapshot").mkdir()
    for file in blobs.iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    assert read_adapter(tmp_path / "snapshot", config_of(openelm)).rank == 4


@each_layout
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_number_that_is_none_is_refused_in_every_part(
    openelm: Path, tmp_path: Path, layout: str, number: float, part: int
) -> None:
    written = write_sums(tmp_path / "a", openelm, made_sums(openelm, dora=True, ends=ENDS), layout)
    name = sorted(arrays_in(written, layout))[part]
    array = arrays_in(written, layout)[name]
    change(written, layout, **{name: mx.where(mx.arange(array.size).reshape(array.shape) == 1, number, array)})
    with pytest.raises(BadCheckpoint, match="NaN or infinite"):
        read_adapter(written, config_of(openelm))


def test_numbers_that_only_the_scale_makes_infinite_are_refused(openelm: Path, tmp_path: Path) -> None:
    sums = {name: LowRank(one.a, 1e38 * one.b) for name, one in made_sums(openelm, ends=ENDS).items()}
    with pytest.raises(BadCheckpoint, match="NaN or infinite"):
        read_adapter(write_sums(tmp_path / "a", openelm, sums, scale=1e5), config_of(openelm))


@each_layout
@pytest.mark.parametrize("rank", [0, 1025])
def test_a_rank_that_is_none_is_refused_before_a_tensor_is_read(
    openelm: Path, tmp_path: Path, layout: str, rank: int
) -> None:
    written = write_sums(tmp_path / "a", openelm, made_sums(openelm, ends=ENDS), layout)
    turned = layout != MLX
    made = {}
    for name, array in arrays_in(written, layout).items():
        is_a = name.lower().rpartition("lora_")[2].startswith("a")
        wide = max(array.shape) if array.shape[0] != array.shape[1] else array.shape[0]
        made[name] = mx.zeros((rank, wide) if is_a == turned else (wide, rank))
    mx.save_safetensors(str(written / WEIGHTS[layout]), made)
    with pytest.raises(ElmError, match=f"rank {rank};" if rank else "rank 0|no bytes|shape"):
        read_adapter(written, config_of(openelm))


def test_one_that_no_memory_would_hold_is_refused_before_a_tensor_is_read(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_sums(tmp_path / "a", openelm, made_sums(openelm, ends=ENDS), MLX)
    monkeypatch.setattr("elm_mlx.store.adapters.arrays.memory_limit", lambda: 1000)
    monkeypatch.setattr("elm_mlx.store.adapters.arrays.read_arrays", None)
    with pytest.raises(NotEnoughMemory, match=r"and this machine has 1\.0 kB|1 kB"):
        read_adapter(written, config_of(openelm))


@pytest.mark.parametrize("name", ["../../x", "transformer.layers.0.attn.out_proj\n", "x" * 10_000, "", "layers.\ud83d"])
def test_names_that_no_matrix_has_are_told_and_do_nothing(openelm: Path, tmp_path: Path, name: str) -> None:
    written = write_sums(tmp_path / "a", openelm, made_sums(openelm, ends=ENDS), MLX)
    header = {f"{name}.lora_a": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}
    raw = json.dumps(header).encode()
    (written / WEIGHTS[MLX]).write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(4))
    with pytest.raises(ElmError) as caught:
        read_adapter(written, config_of(openelm))
    assert len(str(caught.value)) < 25_000


@pytest.mark.parametrize("metadata", [{"base_weights": "x" * 1000}, {"base": "", "base_weights": ""}])
def test_what_an_adapter_says_of_its_base_is_a_text_or_nothing(
    openelm: Path, tmp_path: Path, metadata: dict[str, str]
) -> None:
    written = write_sums(tmp_path / "a", openelm, made_sums(openelm, ends=ENDS), MLX)
    mx.save_safetensors(str(written / WEIGHTS[MLX]), arrays_in(written, MLX), metadata)
    found = read_adapter(written, config_of(openelm))
    if found.base.weights is None:
        check_base(found, openelm)
        return
    with pytest.raises(InvalidRequest, match="other weights"):
        check_base(found, openelm)


def test_a_base_of_which_one_number_changed_is_another_one(openelm: Path, tmp_path: Path) -> None:
    raw = json.loads((openelm / "config.json").read_text())
    base = checkpoints.write(tmp_path / "base", raw)
    sums = made_sums(base, ends=ENDS)
    write_adapter(tmp_path / "a", Written(sums, Base("base", weights_fingerprint(base))), config_of(base))
    found = read_adapter(tmp_path / "a", config_of(base))
    check_base(found, base)
    arrays = mx.load(str(base / "model.safetensors"))
    assert isinstance(arrays, dict)
    arrays["transformer.norm.weight"] = arrays["transformer.norm.weight"] + (mx.arange(64) == 0)
    checkpoints.save(base, arrays)
    with pytest.raises(InvalidRequest, match="other weights"):
        check_base(found, base)
