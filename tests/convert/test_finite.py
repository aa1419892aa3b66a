"""NaN and infinity are found in a source of any layout, named, and refused unless they are asked for."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

from elm_mlx.convert import convert, plan
from elm_mlx.convert.finite import is_finite, largest
from elm_mlx.convert.output import provenance
from elm_mlx.errors import BadCheckpoint, NotFinite

NAN, INF = math.nan, math.inf
LLAMA = checkpoints.LLAMA | {"hidden_size": 64, "head_dim": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
UP = "model.layers.1.mlp.up_proj.weight"
Arrays = dict[str, np.ndarray]


# One array


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
def test_the_largest_magnitude_is_found_among_floats_of_both_signs(dtype: mx.Dtype) -> None:
    random = np.random.RandomState(0)
    for signs in ([1.0], [-1.0], [1.0, -1.0]):
        numbers = mx.array(random.rand(9, 31) * random.choice(signs, (9, 31)) * 100, dtype)
        assert largest(numbers).item() == mx.abs(numbers).max().item()
    assert largest(mx.array([-0.0], dtype)).item() == 0


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize("value", [NAN, -NAN, INF, -INF])
@pytest.mark.parametrize("others", [1.0, -1.0])
def test_one_that_is_no_number_is_found_among_many(dtype: mx.Dtype, value: float, others: float) -> None:
    for place in (0, 500, 998):
        numbers = mx.full((999,), others, dtype)
        assert is_finite(numbers)
        numbers[place] = value
        assert not is_finite(numbers)
        assert math.isnan(float(largest(numbers).item())) == math.isnan(value)


# Every layout


def with_value(arrays: Arrays, name: str, value: float) -> Arrays:
    changed = arrays[name].copy()
    changed.flat[-7] = value
    return arrays | {name: changed}


def safetensors(folder: Path, value: float) -> str:
    checkpoints.write(folder, LLAMA)
    (folder / "model.safetensors").unlink()
    arrays = with_value(checkpoints.weights(LLAMA), UP, value)
    checkpoints.save(folder, {f"module.{name}": mx.array(array) for name, array in arrays.items()}, shards=2)
    return f"module.{UP}"


def halves(folder: Path, value: float) -> str:
    checkpoints.write(folder, LLAMA)
    arrays = with_value(checkpoints.weights(LLAMA), "model.norm.weight", value)
    checkpoints.save(folder, {name: mx.array(array).astype(mx.float16) for name, array in arrays.items()})
    return "model.norm.weight"


def pytorch(folder: Path, value: float) -> str:
    checkpoints.write(folder, LLAMA)
    (folder / "model.safetensors").unlink()
    checkpoints.save_torch(folder / "pytorch_model.bin", with_value(checkpoints.weights(LLAMA), UP, value))
    return UP


def tied(folder: Path, value: float) -> str:
    """The embedding and its copy."""
    raw = LLAMA | {"tie_word_embeddings": True}
    checkpoints.write(folder, raw)
    arrays = with_value(checkpoints.weights(raw), "model.embed_tokens.weight", value)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    checkpoints.save(folder, {name: mx.array(array) for name, array in arrays.items()})
    return "model.embed_tokens.weight"


def corenet(folder: Path, value: float) -> str:
    name = "layers.1.ffn.proj_2.weight"
    arrays = with_value(checkpoints.corenet(checkpoints.weights(checkpoints.OPENELM)), name, value)
    checkpoints.save_torch(folder / "checkpoint_average.pt", arrays)
    checkpoints.add_tokenizer(folder)
    return name


def meta(folder: Path, value: float) -> str:
    """Two files, each of whose two keys is in both."""
    name, raw = "layers.1.attention.wk.weight", checkpoints.META
    arrays = with_value(checkpoints.meta(checkpoints.weights(raw), raw), name, value)
    checkpoints.write_meta(folder, checkpoints.META_PARAMS, checkpoints.dealt(arrays, 4, raw["head_dim"], copies=2))
    return name


def mlx_quantized(part: str) -> Callable[[Path, float], str]:
    def write(folder: Path, value: float) -> str:
        plain = checkpoints.write(folder.with_name("plain"), LLAMA)
        convert(plain, folder, bits=8)
        shutil.rmtree(plain)
        arrays = mx.load(str(folder / "model.safetensors"))
        assert isinstance(arrays, dict)
        arrays[UP.replace("weight", part)][5, 0] = value
        mx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "mlx"})
        return UP

    write.__name__ = f"mlx_{part}"
    return write


LAYOUTS = [safetensors, halves, pytorch, tied, corenet, meta, mlx_quantized("scales"), mlx_quantized("biases")]


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
@pytest.mark.parametrize(("value", "what"), [(NAN, "NaN"), (-INF, "infinity")])
def test_a_source_of_any_layout_is_refused_by_the_name_of_its_tensor(
    tmp_path: Path, write: Callable[[Path, float], str], value: float, what: str
) -> None:
    name = write(tmp_path / "source", value)
    if write.__name__ == "mlx_scales":
        what = "(NaN|infinity)"  # of the products with what is 0 and what is not
    with pytest.raises(NotFinite, match=rf"^{name} of the source holds {what}: .* allow_nonfinite=True") as caught:
        convert(tmp_path / "source", tmp_path / "out", bits=4, group_size=32)
    assert caught.value.exit_code == 65
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# What was asked for


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A Llama with NaN and infinity in one matrix."""
    source = checkpoints.write(tmp_path / "source", LLAMA)
    arrays = {name: mx.array(array) for name, array in checkpoints.weights(LLAMA).items()}
    arrays[UP][3, 4:7] = mx.array([NAN, INF, -INF])
    checkpoints.save(source, arrays)
    return source


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_numbers_that_are_none_are_let_through_where_that_is_asked_for_and_recorded(
    damaged: Path, tmp_path: Path, dtype: str
) -> None:
    output = convert(damaged, tmp_path / "out", dtype=dtype, allow_nonfinite=True).output
    written = mx.load(str(output / "model.safetensors"))
    assert isinstance(written, dict)
    expected = mx.load(str(damaged / "model.safetensors"))[UP].astype(written[UP].dtype)  # type: ignore[index]
    assert mx.array_equal(written[UP], expected, equal_nan=True).item()
    assert [repr(x) for x in written[UP][3, 4:7].tolist()] == ["nan", "inf", "-inf"]  # type: ignore[union-attr]
    assert json.loads((output / "conversion.json").read_text(encoding="utf-8"))["options"]["allow_nonfinite"] is True
    assert "NaN or infinite there were let through" in (output / "README.md").read_text(encoding="utf-8")


def test_without_the_option_nothing_is_recorded(tmp_path: Path) -> None:
    output = convert(checkpoints.write(tmp_path / "source", LLAMA), tmp_path / "out").output
    assert "nonfinite" not in (output / "conversion.json").read_text(encoding="utf-8")
    assert "NaN" not in (output / "README.md").read_text(encoding="utf-8")


def test_what_a_run_with_the_option_left_is_not_gone_on_with_without_it(damaged: Path, tmp_path: Path) -> None:
    jobs = [plan(damaged, tmp_path / "out", allow_nonfinite=allowed) for allowed in (True, False)]
    prints = [provenance.source_fingerprint(job.source, job.config, job.shards) for job in jobs]
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("value", "options", "complaint"),
    [
        (70_000.0, {"dtype": "float16"}, "above 65504, which float16 cannot hold. Use dtype=bfloat16"),
        (-70_000.0, {"dtype": "float16", "bits": 8}, "above 65504, which float16 cannot hold. Use dtype=bfloat16"),
        (3.4e38, {"dtype": "float16"}, "above 65504, which float16 cannot hold. Use dtype=float32"),
        (3.4e38, {}, r"above 3.38953e\+38, which bfloat16 cannot hold. Use dtype=float32"),
    ],
)
@pytest.mark.parametrize("allow", [False, True])
def test_a_number_that_its_new_type_cannot_hold_is_refused_whatever_is_allowed(
    tmp_path: Path, value: float, options: dict[str, Any], complaint: str, allow: bool
) -> None:
    source = checkpoints.write(tmp_path / "source", LLAMA)
    arrays = {name: mx.array(array) for name, array in checkpoints.weights(LLAMA).items()}
    arrays[UP][3, 4:6] = mx.array([value, NAN if allow else 1.0])
    checkpoints.save(source, arrays)
    with pytest.raises(BadCheckpoint, match=f"^{UP} has values {complaint}"):
        convert(source, tmp_path / "out", allow_nonfinite=allow, **options)


def test_the_largest_numbers_of_a_type_are_numbers(tmp_path: Path) -> None:
    """65519 rounds to 65504."""
    source = checkpoints.write(tmp_path / "source", LLAMA)
    arrays = {name: mx.array(array) for name, array in checkpoints.weights(LLAMA).items()}
    arrays[UP][3, 4:6] = mx.array([65519.0, -65504.0])
    checkpoints.save(source, arrays)
    written = mx.load(str(convert(source, tmp_path / "out", dtype="float16").output / "model.safetensors"))
    assert written[UP][3, 4:6].tolist() == [65504, -65504]  # type: ignore[index,union-attr]
