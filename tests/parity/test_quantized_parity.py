"""Quantized checkpoints mean to us what they mean to the libraries that write them, as far as these run on a CPU.

compressed-tensors runs, and so does transformers' reading of its files and of FP8 by blocks. transformers reads GPTQ
and AWQ through gptqmodel, a package for GPUs that these tests do without, and fbgemm_fp8 on a GPU alone: for these the
twins of their packers in helpers.foreign stand. Once, by hand, files were written by auto-gptq 0.7.1's and autoawq
0.2.9's own classes, and each value was what their own code expands it to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints, foreign
from helpers.foreign import FORMS, LLAMA

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.convert.sources import open_source

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
compressed_tensors = pytest.importorskip("compressed_tensors")

THEIRS = ["packed-4", "int8", "float-quantized", "float-quantized-tensor", "fp8-blocks"]


def load(folder: Path) -> Any:
    """The model as transformers reads it, expanded to float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", THEIRS)
def test_logits_are_those_of_transformers_reading_the_same_files(tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    foreign.write(tmp_path / "source", LLAMA | {"torch_dtype": "float32"}, form.settings, form.pack)
    ids = checkpoints.prompt(40)
    with torch.no_grad():
        expected = load(tmp_path / "source")(torch.tensor([ids])).logits[0].float().numpy()
    output = convert(tmp_path / "source", tmp_path / "out", dtype="float32").output
    found = np.array(elm_mlx.load(output).logits(ids))
    assert np.abs(found - expected).max() <= 2e-4 * np.abs(expected).max()
    assert np.array_equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_words_are_packed_as_compressed_tensors_packs_them(bits: int) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    numbers = np.random.RandomState(bits).randint(0, 2**bits, (64, 96))
    signed = torch.tensor(numbers - 2 ** (bits - 1), dtype=torch.int8)
    assert np.array_equal(pack_to_int32(signed, bits).numpy(), foreign.stream(numbers.T, bits).T)
    assert np.array_equal(pack_to_int32(signed, bits, packed_dim=0).numpy(), foreign.stream(numbers, bits))


@pytest.mark.parametrize("name", ["packed-4", "packed-4-asymmetric", "packed-5"])
def test_values_are_those_that_compressed_tensors_unpacks(name: str) -> None:
    """Asymmetric ones without transformers, whose 5.24 expects zeros that are not packed."""
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    parts, values = FORMS[name].pack("", checkpoints.weights(LLAMA)["model.layers.0.mlp.gate_proj.weight"])
    weights = FORMS[name].settings["config_groups"]["group_0"]["weights"]
    state = {part: torch.tensor(array) for part, array in parts.items()}
    state["weight_scale"] = state["weight_scale"].float()
    found = PackedQuantizationCompressor.decompress(state, QuantizationScheme(targets=["Linear"], weights=weights))
    assert np.array_equal(found["weight"].numpy(), values)


def test_small_floats_are_rounded_as_torch_rounds_them() -> None:
    table = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(table, foreign.TABLE, equal_nan=True)
    numbers = np.random.RandomState(0).standard_normal((64, 64)).astype(np.float32)
    assert np.array_equal(foreign.as_float8(numbers), torch.tensor(numbers).to(torch.float8_e4m3fn).view(torch.uint8))


def test_a_model_that_compressed_tensors_wrote_is_read(tmp_path: Path) -> None:
    """The library quantizes and saves; its values are compared with those that it expands itself."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    foreign.write_plain(tmp_path / "plain", LLAMA, checkpoints.weights(LLAMA))
    model = load(tmp_path / "plain")
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
    scheme = {"targets": ["Linear"], "weights": weights}
    settings = QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"], format="pack-quantized",
                                  quantization_status="initialized")  # fmt: skip
    apply_quantization_config(model, settings)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            size = module.weight.detach().unflatten(1, (-1, 32)).abs().amax(-1)
            module.weight_scale.data = (size / 7).to(module.weight_scale.dtype)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format="pack-quantized")
    compressor.compress_model(model)
    model.save_pretrained(tmp_path / "saved")
    compressor.update_config(str(tmp_path / "saved"))
    checkpoints.add_tokenizer(tmp_path / "saved")
    source = open_source(tmp_path / "saved")
    assert source.layout == "compressed-tensors, 4-bit"
    expanded = load(tmp_path / "saved")
    with torch.no_grad():
        ids = checkpoints.prompt(40)
        expected = expanded(torch.tensor([ids])).logits[0].float().numpy()
    output = convert(tmp_path / "saved", tmp_path / "out", dtype="float32").output
    assert np.abs(np.array(elm_mlx.load(output).logits(ids)) - expected).max() <= 2e-4 * np.abs(expected).max()
