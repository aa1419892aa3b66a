"""A directory becomes a model that runs, or a sentence that says which file is wrong and what to do."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from helpers.edits import Edit, edit_config, edit_weights, refused

import elm_mlx
from elm_mlx.config import config_from_dict
from elm_mlx.convert import convert
from elm_mlx.device import memory as machine
from elm_mlx.device.memory import footprint
from elm_mlx.errors import BadCheckpoint, MissingTokenizer, NotEnoughMemory, NotFound, Unsupported
from elm_mlx.models.matrices import Linear, QuantizedLinear, SideBySide
from elm_mlx.store.load import load_directory, read_config
from elm_mlx.store.stored_form import quantize

NORM = "transformer.norm.weight"


@pytest.fixture
def folder(openelm: Path, tmp_path: Path) -> Path:
    """A copy of the tiny OpenELM checkpoint, to be damaged."""
    return Path(shutil.copytree(openelm, tmp_path / "model"))


def test_a_missing_directory_is_not_found(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", r"no directory .*nowhere", NotFound)
    (tmp_path / "file").write_text("", encoding="utf-8")
    refused(tmp_path / "file", "no directory", NotFound)


def test_a_directory_without_a_config_says_so(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, r"no config\.json in .*model", NotFound)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\xfa",
        b"{'a': 1}",
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "cut", "bytes", "quotes", "nested objects", "nested lists", "an endless number"],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_broken_json_names_its_file(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(BadCheckpoint, match=rf"{name} is not valid JSON"):
        elm_mlx.load(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_json_of_another_form_names_its_file(folder: Path, name: str) -> None:
    (folder / name).write_text("[1]", encoding="utf-8")
    with pytest.raises(BadCheckpoint, match=rf"{name} holds a list"):
        elm_mlx.load(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_directory_in_a_file_s_place_is_a_failure_of_ours(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with pytest.raises(elm_mlx.ElmError, match=name):
        elm_mlx.load(folder)


def test_a_deeply_nested_quantization_is_refused(folder: Path) -> None:
    """As deep as the JSON reader goes."""
    nested = '{"a":' * 900 + "{}" + "}" * 900
    path = folder / "config.json"
    path.write_text(
        path.read_text(encoding="utf-8").removesuffix("}") + f', "quantization": {nested}}}', encoding="utf-8"
    )
    refused(folder, r"config\.json")


def test_a_missing_tokenizer_names_the_option(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(MissingTokenizer, match="tokenizer=PATH"):
        elm_mlx.load(folder)


def test_another_models_tokenizer_is_named(tmp_path: Path) -> None:
    small = checkpoints.write(tmp_path / "small", checkpoints.OPENELM | {"vocab_size": 300})
    with pytest.raises(
        BadCheckpoint, match="has ids up to 511 and the model only 300 of them: it is another model's tokenizer"
    ):
        elm_mlx.load(small)


def test_a_directory_without_weights_names_what_helps(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, r"has no weights in safetensors.*Fetch them\.$", NotFound)
    (folder / "adapter_model.safetensors").touch()
    refused(folder, r"no weights in .*adapter_model\.safetensors is an adapter's.*Merge it", NotFound)
    (folder / "consolidated.00.pth").touch()
    refused(folder, rf"no weights in .*elm-mlx convert {folder}$", NotFound)


def test_a_directory_without_a_config_names_what_lies_there_instead(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, r"no config\.json in .*\. Give a model's directory\.$", NotFound)
    (folder / "adapter_config.json").touch()
    refused(folder, r"no config\.json in .*adapter_config\.json is an adapter's.*Merge it", NotFound)
    (folder / "model.Q4.gguf").touch()
    refused(folder, r"no config\.json in .*model\.Q4\.gguf is a GGUF file", NotFound)
    (folder / "params.json").touch()
    refused(folder, rf"no config\.json in .*elm-mlx convert {folder}$", NotFound)
    (folder / "config.json").symlink_to(folder / "elsewhere" / "config.json")
    refused(folder, r"no config\.json in .*a link that leads nowhere: .* \(cp -rL\)\.$", NotFound)


def test_an_unknown_model_type_is_refused_by_name(folder: Path) -> None:
    edit_config(folder, model_type="no_such_kind")
    refused(folder, "'no_such_kind'.*neither elm-mlx .* nor the installed mlx-lm", Unsupported)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(folder, r"model\.safetensors holds .* it is cut short")


def test_a_truncated_shard_is_refused_by_its_name(folder: Path) -> None:
    edit_weights(folder, lambda arrays: None, shards=3)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:100])
    refused(folder, shard.name)
    shard.unlink()
    refused(folder, f"no {shard.name}", NotFound)


def damage(name: str, change: Callable[[mx.array], mx.array]) -> Edit:
    def edit(arrays: dict[str, mx.array]) -> None:
        arrays[name] = change(arrays[name])

    return edit


def rename(arrays: dict[str, mx.array]) -> None:
    arrays["model.norm.weight"] = arrays.pop(NORM)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (damage(NORM, lambda a: a[:-1]), rf"{NORM} has shape \(63,\), config.json gives \(64,\)"),
        (damage(NORM, lambda a: a[None]), rf"{NORM} has shape \(1, 64\)"),
        (damage("transformer.layers.0.ffn.proj_2.weight", mx.transpose), r"ffn\.proj_2\.weight has shape"),
        (damage(NORM, lambda a: a.astype(mx.int32)), f"{NORM} has type I32"),
        (damage("transformer.token_embeddings.weight", lambda a: a.astype(mx.uint32)), "has type U32"),
        (lambda arrays: arrays.pop(NORM), f"missing {NORM}"),
        (lambda arrays: arrays.update(extra=mx.zeros(3)), "not expected extra"),
        (rename, f"missing {NORM}; not expected model.norm.weight"),
        (lambda arrays: arrays.update({NORM.replace("weight", "scales"): mx.zeros(1)}), "not expected .*norm.scales"),
        (dict.clear, "missing transformer.token_embeddings.weight, .* more"),
    ],
)  # fmt: skip
def test_weights_that_do_not_match_the_config_are_refused(folder: Path, edit: Edit, complaint: str) -> None:
    edit_weights(folder, edit)
    refused(folder, complaint)


def test_a_config_of_another_size_is_refused(folder: Path) -> None:
    edit_config(folder, num_transformer_layers=3)
    refused(folder, "layers.3")


@pytest.mark.parametrize("value", ["2", -2, [2, "a"], True, 1.5, {"id": 2}])
def test_a_stop_id_that_is_no_id_is_refused(folder: Path, value: object) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}), encoding="utf-8")
    with pytest.raises(BadCheckpoint, match=r"generation_config\.json: eos_token_id"):
        elm_mlx.load(folder)


def test_stop_ids_are_all_that_any_file_names(folder: Path) -> None:
    edit_config(folder, eos_token_id=[5, 6])
    assert elm_mlx.load(folder).stop_ids == {2, 5, 6}  # 2 by the tokenizer
    (folder / "generation_config.json").write_text('{"eos_token_id": [6, 7]}', encoding="utf-8")
    assert elm_mlx.load(folder).stop_ids == {2, 5, 6, 7}
    (folder / "generation_config.json").write_text('{"eos_token_id": 8}', encoding="utf-8")
    edit_config(folder, eos_token_id=None)
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    assert elm_mlx.load(folder).stop_ids == {8}


def test_a_chat_template_may_lie_beside_the_settings(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    token = content["added_tokens"][-1] | {"id": 512, "content": "<|eot_id|>"}
    (folder / "tokenizer.json").write_text(
        json.dumps(content | {"added_tokens": [*content["added_tokens"], token]}), encoding="utf-8"
    )
    assert 512 not in elm_mlx.load(folder).stop_ids
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert 512 in elm_mlx.load(folder).stop_ids


REDUNDANT = {
    "openelm": ["lm_head.weight"],
    "openelm-untied": ["transformer.classifier.weight"],
    "llama-3.2": ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"],
    "llama-3": [f"model.layers.1.self_attn.rotary_emb.{name}" for name in ("inv_freq", "cos_cached", "sin_cached")],
}


@pytest.mark.parametrize("name", REDUNDANT)
def test_tensors_that_nothing_reads_may_be_there(tmp_path: Path, name: str) -> None:
    folder = checkpoints.write(tmp_path, checkpoints.CONFIGS[name])
    plain = elm_mlx.load(folder).logits(checkpoints.prompt(9))
    embedding = checkpoints.weights(checkpoints.CONFIGS[name])[elm_mlx.load(folder).config.embedding_name]
    extra = {n: mx.array(embedding) if n == "lm_head.weight" else mx.ones(3) for n in REDUNDANT[name]}
    edit_weights(folder, lambda arrays: arrays.update(extra))
    assert mx.array_equal(elm_mlx.load(folder).logits(checkpoints.prompt(9)), plain)


@pytest.mark.parametrize("head", [mx.ones(3), mx.ones((checkpoints.VOCAB, 64))])
def test_a_tied_head_that_is_no_copy_is_refused(tmp_path: Path, head: mx.array) -> None:
    folder = checkpoints.write(tmp_path, checkpoints.CONFIGS["openelm"])
    edit_weights(folder, lambda arrays: arrays.update({"lm_head.weight": head}))
    refused(folder, "differs from the embedding.* set tie_word_embeddings .*share_input_output_layers.* to false")
    edit_config(folder, share_input_output_layers=False)
    if head.ndim == 2:  # what the sentence says helps
        assert elm_mlx.load(folder).generate([1], 2).tokens
    else:
        refused(folder, "lm_head.weight has shape")


def test_an_untied_head_is_not_redundant(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path, checkpoints.CONFIGS["llama-3"])
    edit_weights(folder, lambda arrays: arrays.pop("lm_head.weight"))
    refused(folder, "missing lm_head.weight")


def test_shards_make_the_same_model_as_one_file(source: Path, lm: elm_mlx.LanguageModel, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path, json.loads((source / "config.json").read_text(encoding="utf-8")), shards=3)
    ids = checkpoints.prompt(20)
    assert mx.array_equal(elm_mlx.load(folder).logits(ids), lm.logits(ids))


def test_progress_ends_at_all_bytes(source: Path) -> None:
    heard: list[tuple[int, int]] = []
    elm_mlx.load(source, cpu_policy="plain", progress=lambda done, total: heard.append((done, total)))
    total = sum(
        value.nbytes
        for value in checkpoints.weights(json.loads((source / "config.json").read_text(encoding="utf-8"))).values()
    )
    assert heard == sorted(heard)
    assert heard[-1] == (total, total)


BIG: dict[str, dict[str, Any]] = {
    "llama": checkpoints.LLAMA
    | {
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "head_dim": 64,
        "num_hidden_layers": 4,
        "torch_dtype": "float16",
    },
    "openelm": checkpoints.OPENELM
    | {
        "model_dim": 384,
        "head_dim": 64,
        "qkv_multipliers": 1.0,
        "ffn_multipliers": 2.0,
        "num_transformer_layers": 6,
    },
}

# Rows that groups of 64 divide.
DIVISIBLE = checkpoints.CONFIGS["llama-3"] | {"hidden_size": 128, "head_dim": 16, "intermediate_size": 192}


def settled(raw: dict[str, Any], setting: dict[str, Any] | None, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Seeded weights as `setting`, the quantization object of config.json, wants them stored."""
    config = config_from_dict(raw | ({"quantization": setting} if setting else {}))
    random = np.random.RandomState(3)
    arrays: dict[str, mx.array] = {}
    for name, shape in config.weight_shapes().items():
        weight = mx.array(random.standard_normal(shape) * 0.1 + (len(shape) == 1)).astype(dtype)
        how = config.quantization.of(name, shape) if config.quantization else None
        arrays |= quantize(name, weight, how) if how else {name: weight}
    return arrays


def stored(folder: Path, raw: dict[str, Any], setting: dict[str, Any] | None, dtype: mx.Dtype = mx.float16) -> Path:
    """A directory with such weights."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.save(folder, settled(raw, setting, dtype))
    (folder / "config.json").write_text(
        json.dumps(raw | ({"quantization": setting} if setting else {})), encoding="utf-8"
    )
    checkpoints.add_tokenizer(folder)
    return folder


FOUR_BITS = {"group_size": 64, "bits": 4}


@pytest.mark.parametrize(
    ("family", "setting"),
    [
        ("llama", FOUR_BITS),
        ("openelm", None),
        pytest.param("llama", None, marks=pytest.mark.slow),
        pytest.param("openelm", FOUR_BITS, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_loading_takes_little_more_memory_than_the_file_has(
    tmp_path: Path, family: str, setting: dict[str, Any] | None
) -> None:
    folder = stored(tmp_path, BIG[family], setting)
    size = (folder / "model.safetensors").stat().st_size
    gc.collect()  # what earlier tests left must not go meanwhile
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    loaded = load_directory(folder, cpu_policy="plain")
    assert mx.get_active_memory() - before > 0.97 * size  # all is in memory, nothing waits for the first token
    assert mx.get_active_memory() - before < 1.02 * size
    assert mx.get_peak_memory() - before < 1.35 * size
    assert loaded.config.family == family


@pytest.mark.slow
def test_single_matrices_may_be_quantized_otherwise(tmp_path: Path) -> None:
    """Different bits in one fused product; mlx-lm, on the same directory, has the last word."""
    from helpers.mlx_lm_alone import load_model

    other = {"group_size": 32, "bits": 8}
    setting = {
        "group_size": 64,
        "bits": 4,
        "model.layers.0.self_attn.k_proj": other,
        "model.layers.0.mlp.up_proj": {"group_size": 32, "bits": 4},
        "model.layers.1.self_attn.v_proj": False,
        "model.layers.2.mlp.down_proj": False,
        "model.embed_tokens": {"group_size": 32, "bits": 6},
        "lm_head": other,
    }
    folder = stored(tmp_path / "model", DIVISIBLE, setting, mx.float32)
    lm = elm_mlx.load(folder, cpu_policy="plain")
    kinds = [(type(block.attn.qkv), type(block.ffn.gate_up)) for block in lm.model.blocks]  # type: ignore[attr-defined]
    assert kinds == [(SideBySide, SideBySide), (SideBySide, QuantizedLinear), (QuantizedLinear, QuantizedLinear)]
    assert isinstance(lm.model.blocks[2].ffn.down, Linear)
    ids = checkpoints.prompt(40)
    ours = lm.logits(ids)
    theirs = load_model(folder)[0](mx.array([ids]))[0]
    assert mx.abs(ours - theirs).max() < 1e-4 * mx.abs(theirs).max()
    assert mx.abs(elm_mlx.load(folder).logits(ids) - ours).max() < 1e-4 * mx.abs(ours).max()


def test_an_override_that_its_tensors_do_not_follow_is_refused(tmp_path: Path) -> None:
    setting = {"group_size": 64, "bits": 4}
    folder = stored(tmp_path, DIVISIBLE, setting)
    name = "model.layers.0.self_attn.q_proj"
    edit_config(folder, quantization=setting | {name: {"group_size": 64, "bits": 8}})
    refused(folder, rf"{name}\.weight has shape \(96, 16\), config.json gives \(96, 32\)")
    edit_config(folder, quantization=setting | {name: False})
    refused(folder, rf"not expected {name}\.(scales|biases), {name}")


def test_a_model_too_large_for_the_machine_is_refused_with_the_numbers(
    openelm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: 60_000_000)
    with pytest.raises(NotEnoughMemory, match=r"weights 707 kB, cache 459 kB for 512 tokens.* has 60 MB") as refused:
        load_directory(openelm)
    assert refused.value.needed > refused.value.available == 60_000_000
    assert isinstance(refused.value, MemoryError)
    assert load_directory(openelm, force=True).config.context_length == 512


def test_memory_is_reckoned_as_the_model_will_lie_in_it(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = convert(openelm, tmp_path / "out", bits=4, group_size=32).output
    monkeypatch.setattr(machine, "memory_limit", lambda: 0)
    needed = {}
    for policy in ("plain", "auto"):  # as stored, and expanded to float32
        with pytest.raises(NotEnoughMemory) as refused:
            load_directory(output, policy)
        needed[policy] = refused.value.needed
    config = read_config(output)
    assert needed["auto"] == footprint(config, 4 * config.parameter_count, 32).total
    assert needed["plain"] == footprint(config, elm_mlx.info(output).weight_bytes, 16).total
