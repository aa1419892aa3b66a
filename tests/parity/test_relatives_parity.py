"""Llama's relatives and BitNet give the ids of transformers' classes, over files that torch and transformers wrote.

MobileLLM and MobiLlama have code of their own at their publishers, which no library ships. What it does to Llama's
layers is done to transformers' Llama here: each layer called twice in a row without a cache, one MLP in all layers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, relatives
from helpers.full_pass import full_pass

import elm_mlx
from elm_mlx.convert import convert

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")
sys.path.insert(0, str(Path(__file__).parent))
import torch_models

IDS, TOKENS = checkpoints.prompt(24), 24
STOPS = {2}


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    """transformers compiles BitNet's rounding, which takes long and changes nothing."""
    with torch.compiler.set_stance("force_eager"):
        yield


def torch_llama(raw: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    """transformers' Llama with these weights."""
    return torch_models.build(relatives.plain(raw) | {"attention_bias": False}, arrays)


def save(folder: Path, raw: dict[str, Any], model: Any, kind: str = "bin") -> Path:
    """Saves a model with torch, or with safetensors, which writes what is shared under one of its names."""
    folder.mkdir()
    if kind == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        safetensors_torch.save_model(model, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    checkpoints.add_tokenizer(folder)
    return folder


def check_answers(source: Path, output: Path, model: Any, **form: Any) -> elm_mlx.LanguageModel:
    """Converts and asserts that logits are transformers' and that so are ids, one after the other."""
    lm = elm_mlx.load(convert(source, output, dtype="float32", **form).output)
    expected, found = torch_models.logits(model, IDS), np.array(full_pass(lm, IDS))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    drawn = list(takewhile(lambda id: id not in STOPS, torch_models.greedy(model, IDS, TOKENS)))
    assert drawn
    assert lm.generate(IDS, max_tokens=TOKENS).tokens == drawn
    return lm


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_mobilellm_is_llama_with_its_embedding_as_its_head(tmp_path: Path, kind: str) -> None:
    model = torch_llama(relatives.MOBILELLM, checkpoints.weights(relatives.MOBILELLM))
    check_answers(save(tmp_path / "source", relatives.MOBILELLM, model, kind), tmp_path / "out", model)


def test_mobilellm_ls_runs_each_layer_twice(tmp_path: Path) -> None:
    raw = relatives.MOBILELLM_LS
    model = torch_llama(raw, relatives.written_out(raw, checkpoints.weights(raw)))
    source = relatives.write_bin(tmp_path / "source", raw, checkpoints.weights(raw))
    once = [layer for number, layer in enumerate(model.model.layers) if number % 2 == 0]
    model.model.layers = torch.nn.ModuleList(layer for layer in once for _ in range(2))
    halves = {name: value.half().float() for name, value in model.state_dict().items()}
    model.load_state_dict(halves)
    model.config.use_cache = False  # both calls of a layer would write to one entry of the cache
    check_answers(source, tmp_path / "out", model)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
@pytest.mark.parametrize("unshare", [False, True])
def test_mobillama_has_one_mlp_and_is_a_plain_llama_where_that_is_written_out(
    tmp_path: Path, kind: str, unshare: bool
) -> None:
    raw = relatives.MOBILLAMA
    model = torch_llama(raw, relatives.written_out(raw, checkpoints.weights(raw)))
    for layer in model.model.layers:
        layer.mlp = model.model.layers[0].mlp
    source = save(tmp_path / "source", relatives.plain(raw), model, kind)
    lm = check_answers(source, tmp_path / "out", model, unshare=unshare)
    assert lm.config.model_type == ("llama" if unshare else "mobillama")
    if unshare:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
        assert np.abs(torch_models.logits(theirs, IDS) - torch_models.logits(model, IDS)).max() < 1e-4


@pytest.mark.parametrize("unshare", [True])
@pytest.mark.parametrize("name", ["mobilellm", "mobilellm-ls", "mobillama"])
def test_mlx_lm_runs_what_is_written_out(tmp_path: Path, name: str, unshare: bool) -> None:
    from mlx_lm import load

    raw = {"mobilellm": relatives.MOBILELLM, "mobilellm-ls": relatives.MOBILELLM_LS,
           "mobillama": relatives.MOBILLAMA}[name]  # fmt: skip
    kind = {} if name == "mobilellm" else {"unshare": unshare}
    if name == "mobillama":
        source = relatives.write_mobillama(tmp_path / "source", "bin")
    else:
        source = relatives.write_bin(tmp_path / "source", raw, checkpoints.weights(raw))
    out = convert(source, tmp_path / "out", dtype="float32", **kind).output
    theirs, ours = load(str(out))[0](mx.array([IDS]))[0], full_pass(elm_mlx.load(out), IDS)
    assert float(mx.abs(theirs - ours).max()) <= 1e-4 * float(mx.abs(ours).max())


def bitnet(values: dict[str, np.ndarray]) -> Any:
    """transformers' BitNet with plain weights."""
    config = transformers.BitNetConfig(**relatives.BITNET, attn_implementation="eager")
    model = transformers.BitNetForCausalLM(config)
    state = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in values.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    return model.eval()


def test_bitnet_is_transformers_with_the_weights_that_its_bytes_stand_for(tmp_path: Path) -> None:
    source = relatives.write_bitnet(tmp_path / "source")
    check_answers(source, tmp_path / "out", bitnet(relatives.bitnet_arrays()[1]))


def test_bitnets_bytes_are_what_transformers_unpacks() -> None:
    from transformers.integrations.bitnet import pack_weights, unpack_weights

    matrix = relatives.ternary((64, 96), 3)
    packed = relatives.packed_rows(matrix)
    assert np.array_equal(pack_weights(torch.from_numpy(matrix.copy())).numpy(), packed)
    assert np.array_equal(unpack_weights(torch.from_numpy(packed), torch.float32).numpy(), matrix)


def test_what_is_lost_by_activations_that_stay_floats_is_small(tmp_path: Path) -> None:
    """The reference rounds the input of each product to 8 bits; ours, as mlx-lm, does not. transformers reads the same
    files here, so the difference is that rounding alone."""
    source = relatives.write_bitnet(tmp_path / "source", mx.float32)
    lm = elm_mlx.load(convert(source, tmp_path / "out", dtype="float32").output)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    rounded = torch_models.logits(theirs, IDS)
    found = np.array(full_pass(lm, IDS))
    log_p, log_q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (rounded, found))
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
    print(f"KL of activations in 8 bits: {divergence:.2g} nats a token")
    assert 0 < divergence < 0.01
