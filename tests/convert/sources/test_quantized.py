"""What other libraries have quantized comes over number by number where MLX has the form, and otherwise with a small
loss; what does not fit is refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, foreign
from helpers.foreign import FORMS, LLAMA, Form

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.convert.sources import Source, open_source
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint, ElmError, NotFinite, Unsupported
from elm_mlx.store.stored_form import expand

SLOWER = ("gptq-4-asymmetric", "packed-4", "fbgemm-powers")
GATE, DOWN = "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.down_proj"


def write(folder: Path, form: Form, **how: Any) -> foreign.Tensors:
    return foreign.write(folder, LLAMA, form.settings, form.pack, **how)


def kept(tensor: LazyTensor, dtype: mx.Dtype) -> np.ndarray:
    """The numbers of a packed matrix as a conversion keeps it, its floats cast to `dtype`."""
    assert tensor.packed
    return np.array(expand(tensor.packed.parts("m.weight", dtype), tensor.packed.setting, mx.float32)["m.weight"])


def loss(found: np.ndarray, values: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - values).mean() / np.square(values).mean()))


def worst_loss(source: Source, values: foreign.Tensors) -> float:
    dtype = getattr(mx, source.kept_dtype)
    return max(loss(kept(tensor, dtype), values[name]) for name, tensor in source.tensors.items() if tensor.packed)


@pytest.mark.parametrize("name", FORMS)
def test_values_are_those_of_the_forms_own_formula(tmp_path: Path, name: str) -> None:
    values = write(tmp_path, form := FORMS[name])
    source = open_source(tmp_path)
    assert source.tensors.keys() == values.keys()
    assert all(np.array_equal(tensor.read(), values[name]) for name, tensor in source.tensors.items())
    packed = [tensor.packed.setting for tensor in source.tensors.values() if tensor.packed]
    assert {(setting.bits, setting.group_size) for setting in packed} == {form.kept}
    assert len(packed) == 7
    assert worst_loss(source, values) <= form.bound


def test_rows_are_read_alone_as_in_the_whole(tmp_path: Path) -> None:
    for name in ("gptq-4-asymmetric", "awq", "packed-4-asymmetric", "int8", "fp8-blocks"):
        values = write(tmp_path / name, FORMS[name])[f"{GATE}.weight"]
        tensor = open_source(tmp_path / name).tensors[f"{GATE}.weight"]
        rows = np.concatenate([np.array(block) for block in tensor.blocks(rows=13)])
        assert np.array_equal(rows, values)


@pytest.mark.parametrize(("size", "setting"), [(256, (4, 128)), (96, (4, 32)), (16, (8, 64)), (48, (8, 64))])
def test_groups_of_other_sizes_are_divided_or_expanded(tmp_path: Path, size: int, setting: tuple[int, int]) -> None:
    values = write(tmp_path, foreign.gptq_form(4, size))
    down = open_source(tmp_path).tensors[f"{DOWN}.weight"]
    assert down.packed
    assert (down.packed.setting.bits, down.packed.setting.group_size) == setting
    assert np.array_equal(down.read(), values[f"{DOWN}.weight"])
    assert loss(kept(down, mx.float16), values[f"{DOWN}.weight"]) <= (0.0 if setting[0] == 4 else 6e-3)


def test_a_zero_of_zero_survives_the_format_that_stores_one_less(tmp_path: Path) -> None:
    """Stored as all ones, which borrows from the number above it in the word."""

    def pack(name: str, weight: np.ndarray) -> tuple[foreign.Tensors, np.ndarray]:
        grid = foreign.quantized(
            np.where(np.arange(len(weight))[:, None] % 3, weight, abs(weight)), 4, 32, symmetric=False
        )
        assert (grid.zeros == 0).any()
        return foreign.gptq(grid, 4), grid.values

    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
    values = foreign.write(tmp_path, LLAMA, settings, pack)
    assert all(np.array_equal(tensor.read(), values[name]) for name, tensor in open_source(tmp_path).tensors.items())


def test_a_symmetric_file_whose_zeros_are_not_one_less_is_read_as_what_it_is(tmp_path: Path) -> None:
    """As some of GPTQModel's are, which call themselves "gptq"."""
    form = foreign.gptq_form(4, 64, v2=True)
    values = foreign.write(tmp_path, LLAMA, form.settings | {"checkpoint_format": "gptq"}, form.pack)
    assert np.array_equal(open_source(tmp_path).tensors[f"{DOWN}.weight"].read(), values[f"{DOWN}.weight"])


def act_order(bits: int = 4, size: int = 64) -> Form:
    """GPTQ with desc_act: the columns of a group lie anywhere."""
    random = np.random.RandomState(3)

    def pack(name: str, weight: np.ndarray) -> tuple[foreign.Tensors, np.ndarray]:
        grid = foreign.quantized(weight, bits, size, index=random.permutation(np.arange(weight.shape[1]) // size))
        return foreign.gptq(grid, bits), grid.values

    return Form({"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": True}, pack, 6e-3, (8, 64))


@pytest.mark.parametrize(("raw", "last"), [
    (LLAMA, "mlp.down_proj.weight"),
    pytest.param(foreign.OPENELM, "ffn.proj_2.weight", marks=pytest.mark.slow),
])  # fmt: skip
def test_scattered_groups_are_put_in_order_where_the_units_of_an_ffn_can_be(
    tmp_path: Path, raw: dict[str, Any], last: str
) -> None:
    form = act_order(size=32)
    values = foreign.write(tmp_path / "gptq", raw, form.settings, form.pack)
    source = open_source(tmp_path / "gptq")
    packed = {name: tensor for name, tensor in source.tensors.items() if tensor.packed}
    assert {name for name, tensor in packed.items() if tensor.packed and tensor.packed.setting.bits == 4} == {
        name for name in packed if name.endswith(last)
    }
    assert all(loss(kept(t, mx.float16), np.array(t.read())) <= (0.0 if name.endswith(last) else 6e-3)
               for name, t in packed.items())  # fmt: skip
    foreign.write_plain(tmp_path / "plain", raw, values)
    found = convert(tmp_path / "gptq", tmp_path / "found", dtype="float32").output
    expected = elm_mlx.load(tmp_path / "plain").logits(checkpoints.prompt())
    assert np.allclose(elm_mlx.load(found).logits(checkpoints.prompt()), expected, atol=1e-3)


def test_matrices_that_were_not_quantized_stay_plain_and_files_may_be_many(tmp_path: Path) -> None:
    form = FORMS["gptq-4"]

    def pack(name: str, weight: np.ndarray) -> tuple[foreign.Tensors, np.ndarray] | None:
        return None if "self_attn" in name else form.pack(name, weight)

    values = foreign.write(tmp_path, LLAMA, form.settings, pack, shards=3)
    source = open_source(tmp_path)
    assert sum(tensor.packed is not None for tensor in source.tensors.values()) == 3
    assert all(np.array_equal(tensor.read(), values[name]) for name, tensor in source.tensors.items())
    assert source.layout == "GPTQ, 4-bit"


@pytest.mark.parametrize(("name", "file", "settings"), [
    ("gptq-4", "quantize_config.json", {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}),
    ("awq", "quant_config.json", {"w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"}),
])  # fmt: skip
def test_settings_in_a_file_of_their_own_are_found(
    tmp_path: Path, name: str, file: str, settings: dict[str, Any]
) -> None:
    values = write(tmp_path, FORMS[name])
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / file).write_text(json.dumps(settings))
    source = open_source(tmp_path)
    assert np.array_equal(source.tensors[f"{DOWN}.weight"].read(), values[f"{DOWN}.weight"])
    assert tmp_path / file in source.files


@pytest.mark.parametrize(("symmetric", "dtype"), [(True, "bfloat16"), (False, "float16")])
def test_scales_in_bfloat16_stay_so_where_that_is_exact(tmp_path: Path, symmetric: bool, dtype: str) -> None:
    form = foreign.gptq_form(4, 64, symmetric=symmetric)

    def shorten(parts: foreign.Tensors) -> None:
        bits = parts["scales"].astype(np.float32).view(np.uint32) >> 16
        parts["scales"] = bits.astype(foreign.BFLOAT16)

    foreign.write(tmp_path, LLAMA, form.settings, only_gate(form, shorten))
    source = open_source(tmp_path)
    assert source.kept_dtype == dtype
    tensor = source.tensors[f"{GATE}.weight"]
    assert loss(kept(tensor, getattr(mx, dtype)), np.array(tensor.read())) <= form.bound


def test_small_floats_without_scales_are_the_numbers_that_they_are(tmp_path: Path) -> None:
    numbers = foreign.as_float8(checkpoints.weights(LLAMA)[f"{GATE}.weight"])
    foreign.write(tmp_path, LLAMA, {}, lambda name, _: ({"weight": numbers}, numbers) if GATE in name else None)
    assert np.array_equal(open_source(tmp_path).tensors[f"{GATE}.weight"].read(), foreign.TABLE[numbers])


def test_biases_of_zeros_and_scales_of_activations_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "gptq", FORMS["gptq-4"], extra={f"{GATE}.bias": np.zeros(256, np.float16)})
    assert f"{GATE}.bias" not in open_source(tmp_path / "gptq").tensors
    scales = {f"{GATE}.input_scale": np.ones(1, np.float32), f"{GATE}.input_scale_ub": np.ones(1, np.float32)}
    write(tmp_path / "fp8", FORMS["fbgemm"], extra=scales)
    assert open_source(tmp_path / "fp8").dropped == list(scales)
    write(tmp_path / "bias", FORMS["gptq-4"], extra={f"{GATE}.bias": np.ones(256, np.float16)})
    with pytest.raises(Unsupported, match=r"gate_proj has a bias that is not zero"):
        open_source(tmp_path / "bias")


@pytest.mark.parametrize("name", ["gptq-4", "awq", "fbgemm", "fp8-blocks",
                                  *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)])  # fmt: skip
def test_ids_are_those_of_the_expanded_model(tmp_path: Path, name: str) -> None:
    values, ids = write(tmp_path / "source", FORMS[name]), checkpoints.prompt()
    plain = elm_mlx.load(foreign.write_plain(tmp_path / "plain", LLAMA, values)).logits(ids)
    expanded = elm_mlx.load(convert(tmp_path / "source", tmp_path / "float32", dtype="float32").output)
    assert np.array_equal(expanded.logits(ids), plain)
    done = convert(tmp_path / "source", tmp_path / "kept")
    assert done.kept
    assert done.kept["largest_error"] <= FORMS[name].bound
    assert ("7 of them quantized anew" in (done.output / "README.md").read_text()) == (name == "fp8-blocks")
    found = np.array(elm_mlx.load(done.output).logits(ids))
    same = (found.argmax(-1) == np.array(plain).argmax(-1)).mean()
    exact = FORMS[name].bound == 0 and open_source(tmp_path / "source").kept_dtype == "float16"  # as the plain tensors
    assert np.array_equal(found, plain) if exact else same > 0.9


def test_loading_refuses_and_names_the_conversion(tmp_path: Path) -> None:
    write(tmp_path, FORMS["awq"])
    with pytest.raises(Unsupported, match=r"quantized by AWQ.*Convert it: `elm-mlx convert` takes this directory"):
        elm_mlx.load(tmp_path)


Change = Callable[[foreign.Tensors], Any]


def only_gate(form: Form, change: Change = lambda parts: None) -> foreign.Pack:
    """Packs one matrix alone, and changes its parts."""

    def pack(matrix: str, weight: np.ndarray) -> tuple[foreign.Tensors, np.ndarray] | None:
        packed = form.pack(matrix, weight) if matrix == f"{GATE}.weight" else None
        if packed:
            change(packed[0])
        return packed

    return pack


def cut(part: str, columns: int) -> Change:
    return lambda parts: parts.update({part: np.ascontiguousarray(parts[part][:, :columns])})


@pytest.mark.parametrize(("name", "change", "refusal"), [
    ("gptq-4", lambda parts: parts.pop("scales"), "qweight and no .*gate_proj.scales"),
    ("gptq-4", lambda parts: parts.pop("qzeros"), "no .*gate_proj.qzeros"),
    ("gptq-4", cut("qweight", 128), "qzeros has|other parts make it|qweight is"),
    ("gptq-4", cut("qzeros", 8), "qzeros has 1 bits by its shape"),
    ("gptq-4", cut("scales", 100), "qzeros has"),
    ("gptq-4", lambda parts: parts.update(qweight=np.zeros((0, 256), np.int32)), "qweight is .0, 256."),
    ("gptq-4", lambda parts: parts.update(qweight=np.zeros(64, np.int32)), "qweight is .64,."),
    ("gptq-4", lambda parts: parts.update(qweight=np.zeros((16, 256), np.float32)), "of float32, which no matrix"),
    ("gptq-4", lambda parts: parts.update(g_idx=np.full(128, 7, np.int32)), "g_idx names groups from 7 to 7, and .* 1"),
    ("gptq-4", lambda parts: parts.update(g_idx=np.full(128, -2, np.int32)), "from -2 to -2"),
    ("gptq-4", lambda parts: parts.update(g_idx=np.zeros(64, np.int32)), "a group for each of 128 columns"),
    ("gptq-8", lambda parts: parts.update(g_idx=np.zeros(128, np.int32)), "4 groups, where 128 inputs make 1"),
    ("gptq-4-no-g_idx", lambda parts: parts.update(scales=parts["scales"][:1], qzeros=parts["qzeros"][:1]),
     "scales has 1 groups, where 128 inputs make 4 of 32"),
    ("awq", lambda parts: parts.pop("qzeros"), "no .*gate_proj.qzeros"),
    ("awq", cut("qzeros", 8), r"qzeros is \(1, 8\) of int32, and the other parts make it \(1, 32\)"),
    ("awq", cut("scales", 8), "scales is"),
    ("awq", lambda parts: parts.update(qweight=parts["qweight"][:100]), "100 inputs, which groups of 128"),
    ("packed-4", lambda parts: parts.update(weight=np.zeros((256, 128), np.int8)), "gate_proj.weight twice"),
    ("packed-4", lambda parts: parts.update(weight=np.zeros((256, 128), np.float16)), "gate_proj.weight twice"),
    ("packed-4", lambda parts: parts.pop("weight_shape"), "weight_shape is missing"),
    ("packed-4", lambda parts: parts.update(weight_shape=np.array([256, -1])), "weight_shape is 256 x -1"),
    ("packed-4", lambda parts: parts.update(weight_shape=np.array([256, 2**40])), "weight_shape is 256 x"),
    ("packed-4", lambda parts: parts.update(weight_shape=np.array([256, 120])), "weight_packed is"),
    ("packed-4", lambda parts: parts.update(weight_shape=np.array([1.0, 2.0], np.float32)), "two numbers belong"),
    ("packed-4-asymmetric", cut("weight_zero_point", 1), "weight_zero_point is"),
    ("packed-4-asymmetric", cut("weight_scale", 3), "weight_zero_point is|3 groups"),
    ("packed-4", lambda parts: parts.update(weight_g_idx=np.full(128, 9, np.int32)), "groups from 9 to 9"),
    ("int8", lambda parts: parts.pop("weight_scale"), "weight_scale is missing"),
    ("int8", lambda parts: parts.update(weight_scale=np.ones(7, np.float16)), "the matrix has 256 rows"),
    ("int8", lambda parts: parts.update(weight_zero_point=np.ones(7, np.int8)), "weight_zero_point has another shape"),
    ("fbgemm", lambda parts: parts.pop("weight_scale"), "8-bit floats and no weight_scale"),
    ("fbgemm", lambda parts: parts.update(weight_scale=np.ones((7, 1), np.float32)), "nor one for each of 256 rows"),
    ("fbgemm", lambda parts: parts.update(weight_scale=np.ones((256, 1), np.int32)), "has to be floats"),
    ("fbgemm", lambda parts: parts.update(weight=np.zeros(64, np.uint8)), "weight is .64,."),
    ("fp8-blocks", cut("weight_scale_inv", 3), "nor one for each block of 64 x 32"),
])  # fmt: skip
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, name: str, change: Change, refusal: str) -> None:
    form = FORMS[name]
    foreign.write(tmp_path, LLAMA, form.settings, only_gate(form, change))
    with pytest.raises(BadCheckpoint, match=refusal):
        open_source(tmp_path)


@pytest.mark.parametrize(("name", "settings", "refusal"), [
    ("gptq-4", {"bits": 8}, "4 bits by its shape, and config.json says 8"),
    ("gptq-4", {"bits": "4"}, "bits is '4', where a whole number belongs"),
    ("gptq-4-no-g_idx", {"group_size": 0}, "group_size is 0"),
    ("gptq-4-no-g_idx", {"desc_act": True}, "g_idx is missing"),
    ("gptq-4", {"checkpoint_format": "marlin"}, "GPTQ in the format 'marlin' is not one that elm-mlx reads"),
    ("gptq-4", {"is_marlin_format": True}, "'marlin'"),
    ("gptq-4", {"pack_dtype": "int64"}, "pack_dtype 'int64'"),
    ("awq", {"version": "gemv"}, "version 'gemv' is not one that elm-mlx runs"),
    ("awq", {"bits": 8}, "bits 8"),
    ("awq", {"zero_point": False}, "zero_point False"),
    ("awq", {"group_size": 1000}, "which groups of 1000 do not divide"),
    ("fbgemm", {"fmt": "e5m2"}, "fmt 'e5m2'"),
    ("fp8-blocks", {"weight_block_size": [0, 128]}, "two whole numbers belong"),
    ("fp8-blocks", {"weight_block_size": "128"}, "two whole numbers belong"),
    ("packed-4", {"format": "marlin-24"}, "format 'marlin-24' is not one"),
    ("packed-4", {"format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
    ("packed-4", {"transform_config": {"config_groups": {"R1": {}}}}, "weights are rotated"),
    ("packed-4", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "stored sparse"),
    ("packed-4", {"config_groups": 3}, "config_groups is 3, where an object belongs"),
    ("packed-4", {"quant_method": "aqlm"}, "'aqlm'.*learned table"),
    ("packed-4", {"quant_method": "gptq", "format": None}, "GPTQ has quantized the weights, and .* holds no matrix"),
])  # fmt: skip
def test_forms_that_are_not_read_are_refused_by_name(
    tmp_path: Path, name: str, settings: dict[str, Any], refusal: str
) -> None:
    form = FORMS[name]
    foreign.write(tmp_path, LLAMA, form.settings | settings, only_gate(form))
    with pytest.raises((BadCheckpoint, Unsupported), match=refusal):
        open_source(tmp_path)


def put_first(part: str, value: float, parts: foreign.Tensors) -> None:
    parts[part][0, 0] = value


def test_numbers_that_are_none_are_refused_unless_they_are_let_through(tmp_path: Path) -> None:
    for name, part in (
        ("gptq-4", "scales"),
        ("awq", "scales"),
        ("fbgemm", "weight_scale"),
        ("fbgemm-powers", "weight"),
    ):
        form, spoil = FORMS[name], partial(put_first, part, 0x7F if part == "weight" else np.nan)
        foreign.write(tmp_path / name, LLAMA, form.settings, only_gate(form, spoil))
        with pytest.raises(NotFinite, match=r"gate_proj.weight of the source holds NaN.*allow_nonfinite"):
            convert(tmp_path / name, tmp_path / "out")
        if part == "weight":  # a number, which MLX's form would make another
            continue
        done = convert(tmp_path / name, tmp_path / f"{name}-out", allow_nonfinite=True)
        assert done.kept
        assert done.kept["largest_error"] is None
        stored = mx.load(str(done.output / "model.safetensors"))
        assert bool(mx.isnan(stored[f"{GATE}.scales"]).any().item())
        assert "let through" in (done.output / "README.md").read_text()


ODD: tuple[Any, ...] = (None, True, -1, 0, 1, 3, 7, 2**31, 2**70, 0.5, "", "4", "gptq", [], [0, 0], {}, {"bits": 4})


def mutated(name: str, random: np.random.RandomState) -> tuple[dict[str, Any], Change]:
    """Settings with an odd value, or parts of which one is gone, cut, flattened, of another type, or full of noise."""
    settings, packed = dict(FORMS[name].settings), FORMS[name].pack("", checkpoints.weights(LLAMA)[f"{GATE}.weight"])
    assert packed
    if random.rand() < 0.5:
        settings[random.choice(list(settings))] = ODD[random.randint(len(ODD))]
    part, how = random.choice(list(packed[0])), random.randint(6)

    def change(parts: foreign.Tensors) -> None:
        array = parts.pop(part)
        if how == 1:
            parts[part] = np.ascontiguousarray(array[: random.randint(len(array) + 1)])
        if how == 2:
            parts[part] = array.reshape(-1)
        if how == 3:
            parts[part] = array.astype(random.choice([np.int32, np.int64, np.int8, np.float16, np.float32]))
        if how == 4:
            parts[part] = np.frombuffer(random.bytes(array.nbytes), array.dtype).reshape(array.shape)
        if how == 5:
            parts[part] = array[None]

    return settings, change


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_whatever_is_wrong_is_a_sentence(tmp_path: Path) -> None:
    random = np.random.RandomState(20)
    for _ in range(1500):
        name = random.choice(list(FORMS))
        settings, change = mutated(name, random)
        foreign.write(tmp_path, LLAMA, settings, only_gate(FORMS[name], change))
        with suppress(ElmError):
            tensor = open_source(tmp_path).tensors.get(f"{GATE}.weight")
            if tensor is None:  # a part that is no part leaves no matrix: matching the names refuses it
                continue
            assert tensor.read().shape == tensor.shape
            if tensor.packed:
                kept(tensor, mx.float16)
