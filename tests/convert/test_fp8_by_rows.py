"""FP8 with scales by row: kept number by number, run, verified, converted again, and refused where mlx-lm would err."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from helpers import adapters, checkpoints, foreign
from helpers.foreign import FORMS, LLAMA

import elm_mlx
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert import convert
from elm_mlx.convert.merge import merge
from elm_mlx.convert.verify import verify
from elm_mlx.distributed.part import Cut
from elm_mlx.errors import Unsupported
from elm_mlx.models.matrices import ScaledLinear
from elm_mlx.store.stored_form import expand, quantize

BY_ROWS = Quantization(8, 32, "mxfp8", rows=True)
MATRICES = 7


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, foreign.Tensors]:
    """(the converted directory, the values of all tensors)."""
    folder, form = tmp_path_factory.mktemp("fp8"), FORMS["fbgemm"]
    values = foreign.write(folder / "source", LLAMA, form.settings, form.pack)
    done = convert(folder / "source", verify=True)
    assert done.output.name == "source-mlx-fp8"
    assert done.kept is not None
    assert (done.kept["row_scales"], done.kept["largest_error"] < 3e-7) == (MATRICES, True)
    return done.output, values


def test_the_model_computes_with_the_numbers_of_its_source(kept: tuple[Path, foreign.Tensors], tmp_path: Path) -> None:
    output, values = kept
    ids = checkpoints.prompt()
    plain = foreign.write_plain(tmp_path / "plain", LLAMA, values)
    expected = np.array(elm_mlx.load(plain).logits(ids))
    for policy in ("auto", "plain"):  # expanded to float32, and as it is stored, beside bfloat16
        with elm_mlx.load(output, cpu_policy=policy) as lm:
            found = np.array(lm.logits(ids))
        assert np.abs(found - expected).max() <= 0.1 * np.abs(expected).max()


def test_a_product_is_exact_in_float32_and_keeps_the_type_of_the_activations() -> None:
    random = np.random.RandomState(0)
    weight = random.standard_normal((24, 64)).astype(np.float32) * 1e-3
    scales = np.abs(weight).max(1, keepdims=True) / 448
    numbers = foreign.float8(weight, scales)
    powers = np.frexp(scales)[1] - 1
    arrays = [mx.array(numbers).view(mx.uint32), mx.array(np.repeat(powers + 127, 2, 1).astype(np.uint8)),
              mx.array(np.ldexp(scales, -powers)[:, 0])]  # fmt: skip
    values = foreign.TABLE[numbers] * scales
    x = random.standard_normal((2, 64)).astype(np.float32)
    found = np.array(ScaledLinear(arrays, BY_ROWS, mx.float32)(mx.array(x)))
    assert np.abs(found - x @ values.T).max() <= 1e-6 * np.abs(x @ values.T).max()
    ids = mx.array([[3, 5]])
    assert np.array_equal(np.array(ScaledLinear(arrays, BY_ROWS, mx.float32).rows(ids))[0], values[[3, 5]])
    narrow = ScaledLinear(arrays, BY_ROWS, mx.bfloat16)(mx.array(x).astype(mx.bfloat16))
    assert narrow.dtype == mx.bfloat16
    assert np.abs(np.array(narrow.astype(mx.float32)) - found).max() <= 0.02 * np.abs(found).max()


def test_its_directory_says_what_it_is_and_who_loads_it(kept: tuple[Path, foreign.Tensors]) -> None:
    output, _ = kept
    raw = json.loads((output / "config.json").read_text())["quantization"]
    assert (raw["mode"], raw["row_scales"]) == ("mxfp8", True)
    card = (output / "README.md").read_text()
    assert "which mlx-lm does not load" in card
    assert "mlx_lm.generate" not in card
    stored = mx.load(str(output / "model.safetensors"))
    assert stored["model.layers.0.mlp.gate_proj.row_scales"].dtype == mx.float32
    bits = (
        8 * stored["model.layers.0.mlp.gate_proj.weight"].nbytes
        + 8 * stored["model.layers.0.mlp.gate_proj.scales"].nbytes
    )
    assert bits / (256 * 128) == 8.25


def test_it_converts_to_what_mlx_lm_loads(kept: tuple[Path, foreign.Tensors], tmp_path: Path) -> None:
    output, values = kept
    done = convert(output, tmp_path / "eight", bits=8)
    assert "row_scales" not in json.loads((done.output / "config.json").read_text())["quantization"]
    plain = convert(output, tmp_path / "floats", dtype="float32").output
    stored = mx.load(str(plain / "model.safetensors"))
    name = "model.layers.0.mlp.down_proj.weight"
    assert np.allclose(np.array(stored[name]), values[name], rtol=3e-7, atol=0)
    assert verify(done.output, output, tokens=128).passed


def test_a_column_cut_leaves_the_scales_of_rows_whole() -> None:
    assert Cut(1, 32, 64).stored((256, 128), (256,)) == Cut(0, 0, 256)
    assert Cut(0, 64, 128).stored((256, 128), (256,)) == Cut(0, 64, 128)


def test_nothing_else_is_rounded_to_this_form() -> None:
    with pytest.raises(Unsupported, match="weights of an FP8 checkpoint"):
        quantize("m.weight", mx.zeros((4, 32)), BY_ROWS)
    with pytest.raises(Unsupported, match="affine quantization: row_scales"):
        Quantization.from_dict({"bits": 4, "group_size": 64, "row_scales": True})
    assert Quantization.from_dict(BY_ROWS.to_dict()) == BY_ROWS
    assert expand({"n.row_scales": mx.ones(3)}, BY_ROWS, mx.float32) == {}


def test_an_adapter_is_merged_from_floats_into_8_bits(kept: tuple[Path, foreign.Tensors], tmp_path: Path) -> None:
    """Floats by row are kept from FP8 alone, so the adapted matrix, and it alone, is stored in another form."""
    output, values = kept
    name = "model.layers.0.self_attn.q_proj"
    adapter = adapters.write_sums(tmp_path / "adapter", output, {name: adapters.made_sums(output)[name]})
    plain = foreign.write_plain(tmp_path / "plain", LLAMA, values)
    done = merge(output, adapter, tmp_path / "merged", source=plain)
    quantization = Quantization.from_dict(json.loads((done.output / "config.json").read_text())["quantization"])
    assert quantization.setting(name) == Quantization(8, 64)
    other = quantization.setting(name.replace("q_proj", "k_proj"))
    assert other is not None
    assert other.rows
    assert "mlx_lm.generate" not in (done.output / "README.md").read_text()
