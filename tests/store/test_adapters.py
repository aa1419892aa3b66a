"""Adapter files are read and written in both layouts, and what is damaged, hostile or another model's is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.adapters import WEIGHTS, arrays_in, change, config_of, made_sums, write_sums

from elm_mlx.errors import BadCheckpoint, ElmError, InvalidRequest, NotFound, Unsupported
from elm_mlx.models.lora import LowRank
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.store.adapters.read import check_base, read_adapter
from elm_mlx.store.adapters.write import LAYOUTS, MLX, PEFT, Written, write_adapter
from elm_mlx.store.fingerprint import weights_fingerprint

each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def say(folder: Path, **facts: Any) -> None:
    """Changes what adapter_config.json says."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def same(one: LowRank, other: LowRank) -> bool:
    lengths = (one.m is None and other.m is None) or bool(mx.allclose(one.m, other.m).item())  # type: ignore[arg-type]
    return lengths and bool((mx.allclose(one.a, other.a) & mx.allclose(one.b, other.b, rtol=1e-6)).item())


@each_family
@each_layout
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_what_is_written_is_read_with_its_scale_folded_in(
    source: Path, layout: str, dora: bool, tmp_path: Path
) -> None:
    sums = made_sums(source, dora=dora)
    found = read_adapter(write_sums(tmp_path / "a", source, sums, layout, scale=1.5), config_of(source))
    assert (found.kind, found.rank) == ("dora" if dora else "lora", 4)
    assert found.arrays.keys() == sums.keys()
    assert all(same(found.arrays[name], LowRank(one.a, 1.5 * one.b, one.m)) for name, one in sums.items())


@each_layout
def test_matrices_may_have_ranks_of_their_own(openelm: Path, layout: str, tmp_path: Path) -> None:
    sums = made_sums(openelm, ends=("out_proj",)) | made_sums(openelm, rank=2, ends=("proj_1",))
    found = read_adapter(write_sums(tmp_path / "a", openelm, sums, layout), config_of(openelm))
    for name, one in sums.items():
        assert mx.allclose(found.arrays[name].a @ found.arrays[name].b, one.a @ one.b, atol=1e-5)


def test_pefts_scale_is_alpha_over_the_rank_or_its_root_and_patterns_change_both(openelm: Path, tmp_path: Path) -> None:
    sums = made_sums(openelm, rank=4, ends=("out_proj", "proj_2"))
    folder, out = write_sums(tmp_path / "a", openelm, sums, PEFT), "transformer.layers.0.attn.out_proj"
    for facts, scale, pattern_scale in (
        ({"lora_alpha": 8}, 2.0, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0, 4.0),
        ({"lora_alpha": 8, "use_rslora": False, "alpha_pattern": {"attn.out_proj": 2}}, 2.0, 0.5),
    ):
        say(folder, **facts)
        found = read_adapter(folder, config_of(openelm)).arrays
        other = "transformer.layers.1.ffn.proj_2"
        assert mx.allclose(found[other].b, scale * sums[other].b)
        assert mx.allclose(found[out].b, pattern_scale * sums[out].b)


@each_layout
def test_an_adapter_knows_its_base_and_a_changed_one_is_noticed(openelm: Path, layout: str, tmp_path: Path) -> None:
    config, other = (
        config_of(openelm),
        checkpoints.write(tmp_path / "b", json.loads((openelm / "config.json").read_text()), seed=7),
    )
    base = Base("a name", weights_fingerprint(openelm))
    write_adapter(tmp_path / "a", Written(made_sums(openelm), base), config, layout)
    found = read_adapter(tmp_path / "a", config)
    assert found.base == base
    check_base(found, openelm)
    with pytest.raises(InvalidRequest, match=r"made for other weights \(a name\)"):
        check_base(found, other)


NAN, FAR = mx.array([[float("nan")]]), mx.array([[float("inf")]])
Damage = Callable[[Path, str], None]


def without_weights(folder: Path, layout: str) -> None:
    (folder / WEIGHTS[layout]).unlink()


def cut_short(folder: Path, layout: str) -> None:
    path = folder / WEIGHTS[layout]
    path.write_bytes(path.read_bytes()[:-5])


def no_number(folder: Path, layout: str) -> None:
    name, array = next(iter(arrays_in(folder, layout).items()))
    change(folder, layout, **{name: mx.where(mx.arange(array.shape[-1]) == 1, float("nan"), array)})


def one_half(folder: Path, layout: str) -> None:
    change(folder, layout, **{next(iter(arrays_in(folder, layout))): None})


def other_shape(folder: Path, layout: str) -> None:
    name, array = next(iter(arrays_in(folder, layout).items()))
    change(folder, layout, **{name: array.reshape(-1)})


def whole_numbers(folder: Path, layout: str) -> None:
    name, array = next(iter(arrays_in(folder, layout).items()))
    change(folder, layout, **{name: array.astype(mx.int32)})


def strange_name(folder: Path, layout: str) -> None:
    arrays = arrays_in(folder, layout) | {"lm_head.weight": mx.zeros((2, 2))}
    mx.save_safetensors(str(folder / WEIGHTS[layout]), arrays)


def another_model(folder: Path, layout: str) -> None:
    arrays = {name.replace("layers.0.", "layers.99."): array for name, array in arrays_in(folder, layout).items()}
    mx.save_safetensors(str(folder / WEIGHTS[layout]), arrays)


def huge_rank(folder: Path, layout: str) -> None:
    """A header that promises a rank of 10^9, and a file with a hole of that size: it takes no room on the disk."""
    header: dict[str, Any] = {}
    shape = (10**9, 64) if layout == PEFT else (64, 10**9)
    ends, name = [0, 0], "transformer.layers.0.attn.qkv_proj"
    for part in ("lora_a", "lora_b") if layout == MLX else ("lora_A.weight", "lora_B.weight"):
        key = f"{name}.{part}" if layout == MLX else f"base_model.model.{name}.{part}"
        size = (
            shape
            if part.lower().startswith("lora_a")
            else tuple(reversed((*shape[:1], 96) if layout == PEFT else (96, 10**9)))
        )
        ends = [ends[1], ends[1] + 4 * size[0] * size[1]]
        header[key] = {"dtype": "F32", "shape": list(size), "data_offsets": ends}
    raw = json.dumps(header).encode()
    with (folder / WEIGHTS[layout]).open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + ends[1])


@each_layout
@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (without_weights, NotFound), (cut_short, BadCheckpoint), (no_number, BadCheckpoint), (one_half, BadCheckpoint),
        (other_shape, InvalidRequest), (whole_numbers, InvalidRequest), (strange_name, BadCheckpoint),
        (another_model, InvalidRequest), (huge_rank, ElmError),
    ],
)  # fmt: skip
def test_damaged_and_hostile_files_are_refused_in_a_sentence(
    openelm: Path, tmp_path: Path, layout: str, damage: Damage, error: type[ElmError]
) -> None:
    folder = write_sums(tmp_path / "a", openelm, made_sums(openelm), layout)
    damage(folder, layout)
    with pytest.raises(error) as caught:
        read_adapter(folder, config_of(openelm))
    assert str(caught.value).endswith((".", ". "))


@pytest.mark.parametrize(
    ("layout", "facts", "error", "words"),
    [
        (MLX, {"fine_tune_type": "full"}, Unsupported, "fuse"),
        (MLX, {"fine_tune_type": ["lora"]}, Unsupported, "lora, dora"),
        (MLX, {"lora_parameters": {"rank": 4}}, BadCheckpoint, "scale is None"),
        (MLX, {"lora_parameters": {"rank": 4, "scale": 1e300}}, BadCheckpoint, "scale is 1e"),
        (MLX, {"lora_parameters": {"rank": 4, "scale": 1.0, "alpha": 2}}, BadCheckpoint, "alpha"),
        (MLX, {"lora_parameters": [1]}, BadCheckpoint, "must be an object"),
        (PEFT, {"peft_type": "IA3"}, Unsupported, "IA3"),
        (PEFT, {"r": 10**9}, BadCheckpoint, "rank 1000000000"),
        (PEFT, {"r": 0}, BadCheckpoint, "r is 0"),
        (PEFT, {"lora_alpha": "much"}, BadCheckpoint, "lora_alpha is 'much'"),
        (PEFT, {"use_dora": True}, BadCheckpoint, "use_dora is True"),
        (PEFT, {"modules_to_save": ["lm_head"]}, Unsupported, "modules_to_save"),
        (PEFT, {"trainable_token_indices": [1]}, Unsupported, "trainable_token_indices"),
        (PEFT, {"bias": "all"}, Unsupported, "bias"),
        (PEFT, {"fan_in_fan_out": True}, Unsupported, "fan_in_fan_out"),
        (PEFT, {"init_lora_weights": "pissa_niter_4"}, Unsupported, "pissa"),
        (PEFT, {"alpha_pattern": {"(a+)+$": 3}}, Unsupported, "regular expression"),
        (PEFT, {"alpha_pattern": {"qkv_proj": float("nan")}}, BadCheckpoint, "alpha_pattern is nan"),
        (PEFT, {"rank_pattern": {"qkv_proj": 2}}, BadCheckpoint, "rank 2"),
    ],
)
def test_what_a_configuration_says_is_judged(
    openelm: Path, tmp_path: Path, layout: str, facts: dict[str, Any], error: type[ElmError], words: str
) -> None:
    folder = write_sums(tmp_path / "a", openelm, made_sums(openelm), layout)
    say(folder, **facts)
    with pytest.raises(error, match=words):
        read_adapter(folder, config_of(openelm))


def test_a_directory_without_an_adapter_is_refused(openelm: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no adapter"):
        read_adapter(tmp_path, config_of(openelm))
    folder = write_sums(tmp_path / "a", openelm, made_sums(openelm), PEFT)
    (folder / WEIGHTS[PEFT]).rename(folder / "adapter_model.bin")
    with pytest.raises(Unsupported, match="safetensors"):
        read_adapter(folder, config_of(openelm))
