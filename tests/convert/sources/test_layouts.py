"""Hugging Face's layout, CoreNet's and Apple's: one model, told by names and shapes."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from hypothesis import given, settings
from hypothesis import strategies as st

import elm_mlx
from elm_mlx.config import OpenELMConfig, config_from_dict
from elm_mlx.config.values import Values
from elm_mlx.convert import convert
from elm_mlx.convert.keymap import match
from elm_mlx.convert.sources import corenet, open_source
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound, Unsupported

OPENELM = checkpoints.OPENELM
WEIGHTS = checkpoints.weights(OPENELM)
FLAT = checkpoints.corenet(WEIGHTS)
PUBLISHED = checkpoints.PUBLISHED["openelm"]
YAML = """\
taskname: '+ [tiny]'
_anchor_context_length: &_anchor_context_length 512
_anchor_padding_index: &_anchor_padding_index 512
model:
  language_modeling:
    name: "general_gpt"
    general_gpt:
      model_name: "tiny"
      vocab_size: 640
      max_context_length: *_anchor_context_length
      padding_index: *_anchor_padding_index
"""


def logits(model: Path) -> np.ndarray:
    return np.array(elm_mlx.load(model).logits(checkpoints.prompt()))


def written(output: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((output / "config.json").read_text(encoding="utf-8"))
    return config


def write_corenet(folder: Path, arrays: dict[str, np.ndarray], yaml: str = YAML) -> Path:
    """A directory as CoreNet's training leaves it, with a tokenizer."""
    checkpoints.save_torch(folder / "checkpoint_average.pt", arrays)
    checkpoints.add_tokenizer(folder)
    (folder / "config.yaml").write_text(yaml, encoding="utf-8")
    (folder / "other.yaml").write_text("a: 1", encoding="utf-8")
    return folder


def lazy(array: np.ndarray) -> LazyTensor:
    return LazyTensor(array.shape, mx.float32, partial(mx.array, array))


# CoreNet


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_corenets_state_dict_is_hugging_faces_model(openelm: Path, tmp_path: Path, prefix: str) -> None:
    source = write_corenet(tmp_path / "s", {prefix + name: array for name, array in FLAT.items()})
    done = convert(source, tmp_path / "out", dtype="float32")
    assert np.array_equal(logits(done.output), logits(openelm))
    assert done.layout == "CoreNet"
    assert done.dropped == [f"{prefix}token_embeddings.weight[512:]"]
    assert written(done.output)["max_context_length"] == 512
    assert written(done.output)["model_type"] == "openelm"


def test_corenets_file_alone_tells_its_architecture(openelm: Path, tmp_path: Path) -> None:
    """Llama 2's vocabulary ends at 32,000 where nothing says so."""
    table = {"token_embeddings.weight": np.resize(FLAT["token_embeddings.weight"], (32_128, 64))}
    file = checkpoints.save_torch(tmp_path / "s" / "epoch 3.pt", FLAT | table)
    done = convert(file, tmp_path / "out", tokenizer=openelm)
    config, theirs = written(done.output), written(openelm)
    assert (config["vocab_size"], config["max_context_length"]) == (32_000, 2048)
    assert done.dropped == ["token_embeddings.weight[32000:]"]
    found, expected = config_from_dict(config), config_from_dict(theirs)
    assert all(getattr(found, key) == getattr(expected, key) for key in ("num_heads", "num_kv_heads", "ffn_dims"))
    assert elm_mlx.load(done.output).generate("Once", 2).tokens


def test_a_config_json_beside_corenets_file_is_taken(openelm: Path, tmp_path: Path) -> None:
    file = checkpoints.save_torch(tmp_path / "s" / "checkpoint_last.pt", FLAT)
    shutil.copyfile(openelm / "config.json", file.parent / "config.json")
    done = convert(file, tmp_path / "out", tokenizer=openelm, dtype="float32")
    assert np.array_equal(logits(done.output), logits(openelm))
    assert written(done.output)["qkv_multipliers"] == OPENELM["qkv_multipliers"]


def test_an_untied_corenet_model_keeps_its_classifier(tmp_path: Path) -> None:
    raw = OPENELM | {"share_input_output_layers": False}
    arrays = checkpoints.weights(raw)
    theirs = checkpoints.write(tmp_path / "hf", raw)
    flat = checkpoints.corenet({name: array for name, array in arrays.items() if name != "lm_head.weight"}, 0)
    source = write_corenet(tmp_path / "s", flat | {"classifier.weight": arrays["lm_head.weight"]}, "")
    assert np.array_equal(logits(convert(source, tmp_path / "out", dtype="float32").output), logits(theirs))


@pytest.mark.slow
def test_mlx_lm_runs_what_the_shapes_told(tmp_path: Path) -> None:
    from helpers.mlx_lm_alone import load_model

    output = convert(write_corenet(tmp_path / "s", FLAT), tmp_path / "out", dtype="float32").output
    theirs = np.array(load_model(output)[0](mx.array([checkpoints.prompt()]))[0])
    assert np.abs(theirs - logits(output)).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("size", list(PUBLISHED))
def test_the_published_sizes_are_told_by_their_shapes(size: str) -> None:
    """Widths, heads and the padded vocabulary, from tensors that are never read."""
    config = config_from_dict(PUBLISHED[size]["config"])
    shapes = {name.removeprefix("transformer."): shape for name, shape in config.weight_shapes().items()}
    shapes["token_embeddings.weight"] = (32_128, config.model_dim)
    tensors = {name: LazyTensor(shape, mx.float32, partial(pytest.fail, "was read")) for name, shape in shapes.items()}
    facts = {"model_name": f"OpenELM-{size.upper().replace('.', '_')}", "vocab_size": 32_128}
    found = config_from_dict(corenet.raw_config(Path("there"), tensors, Values(facts)))
    assert found.weight_shapes() == config.weight_shapes()
    assert (found.head_dim, found.num_heads, found.context_length) == (config.head_dim, config.num_heads, 2048)
    other = facts | {"model_name": "OpenELM-3B" if size == "270m" else "OpenELM-270M"}
    with pytest.raises(BadCheckpoint, match="not the model of the configuration beside it"):
        corenet.raw_config(Path("there"), tensors, other)


@settings(max_examples=50)
@given(st.data())
def test_any_uneven_openelm_is_told_by_its_shapes(data: st.DataObject) -> None:
    layers, E, D = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 40)), 2 * data.draw(st.integers(1, 8))
    K = data.draw(st.lists(st.integers(1, 4), min_size=layers, max_size=layers))
    H = [kv * data.draw(st.integers(1, 4)) for kv in K]
    F = data.draw(st.lists(st.integers(1, 300), min_size=layers, max_size=layers))
    V = data.draw(st.integers(1, 300))
    raw = {"model_type": "openelm", "model_dim": E, "head_dim": D, "num_transformer_layers": layers, "vocab_size": V,
           "num_query_heads": H, "num_kv_heads": K, "ffn_multipliers": [f / E for f in F], "ffn_dim_divisor": 1,
           "share_input_output_layers": True, "normalize_qk_projections": True}  # fmt: skip
    arrays = checkpoints.weights(raw)
    tensors = {name: lazy(array) for name, array in checkpoints.corenet(arrays, 0).items()}
    config = config_from_dict(corenet.raw_config(Path("there"), tensors, Values({})))
    assert isinstance(config, OpenELMConfig)
    assert (config.num_heads, config.num_kv_heads, config.ffn_dims) == (tuple(H), tuple(K), tuple(F))
    found = match(config, ("openelm", "corenet"), tensors, Path("there")).tensors
    assert all(np.array_equal(np.array(found[name].read()), array) for name, array in arrays.items())


@pytest.mark.parametrize(
    ("rows", "padding_index", "kept"),
    [(32_128, 32_000, 32_000), (640, 512, 512), (640, 513, 513), (32_005, 32_000, 32_005), (32_256, 32_000, 32_256),
     (32_000, 32_000, 32_000), (640, 640, 640), (128, 0, 128), (640, 10_000, 640)],
)  # fmt: skip
def test_only_rows_that_fill_up_the_last_128_are_padding(rows: int, padding_index: int, kept: int) -> None:
    assert corenet.kept_rows(rows, padding_index) == kept


def test_the_checkpoint_of_a_directory_is_chosen_or_asked_for(tmp_path: Path) -> None:
    source = write_corenet(tmp_path / "s", FLAT)
    for name in ("checkpoint_last.pt", "checkpoint_best.pt", "training_checkpoint_last.pt"):
        (source / name).write_bytes(b"not read")
    assert open_source(source).config.vocab_size == 512
    (source / "checkpoint_average.pt").rename(source / "checkpoint_epoch_0_iter_9.pt")
    with pytest.raises(InvalidRequest, match=r"holds 3 checkpoints.*Name one"):
        open_source(source)
    (source / "checkpoint_last.pt").unlink()
    (source / "checkpoint_best.pt").unlink()
    assert open_source(source).layout == "CoreNet"
    (source / "checkpoint_epoch_0_iter_9.pt").rename(source / "training_checkpoint_last.pt")
    assert open_source(source).layout == "CoreNet"


@pytest.mark.parametrize(
    "yaml",
    [
        YAML.replace("640", "641"),
        YAML.replace("640", "-1"),
        YAML.replace("vocab_size: 640", "vocab_size: [1]"),
        YAML.replace("_length 512", "_length 1e999"),
        YAML.replace("_index 512", "_index x"),
        YAML.replace("640", "9" * 5000),
        YAML.replace("640", "*nowhere"),
        YAML + "\t",
        "general_gpt: " + "[" * 1_000,
        "general_gpt: \0",
        "general_gpt: &a [*a]",
        "? {general_gpt: [1]}\n: 1",
    ],
)
def test_a_yaml_that_cannot_be_is_refused_in_a_sentence(tmp_path: Path, yaml: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"yaml|architecture|configuration"):
        open_source(write_corenet(tmp_path / "s", FLAT, yaml))


@pytest.mark.parametrize(
    "yaml", ["", "a: b", "model: general_gpt", "[general_gpt]", "model: {language_modeling: 3} # general_gpt"]
)
def test_a_yaml_of_another_kind_says_nothing(tmp_path: Path, yaml: str) -> None:
    assert open_source(write_corenet(tmp_path / "s", FLAT, yaml)).config.vocab_size == 640


def test_a_yaml_that_repeats_itself_is_not_unfolded(tmp_path: Path) -> None:
    """Nor are mappings merged, which multiplies them."""
    bomb = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 200))
    source = write_corenet(tmp_path / "s", FLAT, bomb + YAML + "      <<: *a0\n      what: *a199\n")
    shutil.copyfile(source / "config.yaml", source / "copy.yaml")  # the two are compared
    assert open_source(source).config.vocab_size == 512
    assert corenet.general_gpt(source / "config.yaml").items() >= {"<<": "dict", "what": "list"}.items()


@pytest.mark.parametrize("name", ["config.yaml", "other.yml", "params.json"])
def test_a_pipe_in_a_configuration_s_place_is_refused(tmp_path: Path, pipe: Path, name: str) -> None:
    source = write_corenet(tmp_path / "s", FLAT)
    if name == "params.json":
        (source / "checkpoint_average.pt").rename(source / "consolidated.00.pth")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(pipe)
    with pytest.raises(BadCheckpoint, match=rf"{name} cannot be read: it is a folder, a pipe"):
        open_source(source)


def test_configurations_of_two_models_are_refused(tmp_path: Path) -> None:
    source = write_corenet(tmp_path / "s", FLAT)
    shutil.copyfile(source / "config.yaml", source / "copy.yml")
    assert open_source(source).config.vocab_size == 512
    (source / "copy.yml").write_text(YAML.replace("640", "32128"), encoding="utf-8")
    with pytest.raises(InvalidRequest, match="several models"):
        open_source(source)


@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (4, 0), (2, 3, 4), (10**4, 1), None])
def test_a_corenet_tensor_that_is_missing_or_misshapen_is_refused(shape: Any) -> None:
    assert [name for name in FLAT if not is_refused(name, shape)] == []


def is_refused(name: str, shape: Any) -> bool:
    """Whether a checkpoint is refused in which a tensor has another shape, or is missing (None)."""
    tensors = {key: lazy(array) for key, array in FLAT.items() if key != name}
    if shape is not None:
        tensors[name] = LazyTensor(shape, mx.float32, partial(pytest.fail, "was read"))
    try:
        match_corenet(tensors)
    except BadCheckpoint:
        return True
    return False


def match_corenet(tensors: dict[str, LazyTensor]) -> None:
    config = config_from_dict(corenet.raw_config(Path("there"), tensors, {"vocab_size": 640, "padding_index": 512}))
    match(config, ("openelm", "corenet"), corenet.drop_padding(tensors, config.vocab_size)[0], Path("there"))


@pytest.mark.parametrize("name", ["layers.0.attn.qkv_proj.base_layer.weight", "layers.0.ffn.proj_1.lora_A.lora.weight"])
def test_an_adapter_is_refused_by_name(tmp_path: Path, name: str) -> None:
    file = checkpoints.save_torch(tmp_path / "s" / "openelm_lora_270M.pt", FLAT | {name: np.ones((2, 2), np.float32)})
    with pytest.raises(Unsupported, match=r"adapter.*[Mm]erge"):
        convert(file)
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(Unsupported, match=r"adapter.*[Mm]erge"):
        convert(tmp_path / "peft")


# Apple's MLX example


def write_apple(folder: Path, arrays: dict[str, mx.array], **config: Any) -> Path:
    folder.mkdir()
    mx.save_safetensors(str(folder / "weights.safetensors"), arrays)
    short = {"model_name": "tiny", "vocab_size": 640, "max_context_length": 512, **config}
    (folder / "config.json").write_text(json.dumps(short), encoding="utf-8")
    return folder


def test_apples_mlx_files_are_the_same_model(openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corenet, "PADDING_INDEX", 512)
    source = write_apple(tmp_path / "s", {name: mx.array(array) for name, array in FLAT.items()})
    done = convert(source, tmp_path / "out", tokenizer=openelm, dtype="float32")
    assert np.array_equal(logits(done.output), logits(openelm))
    assert done.layout == "Apple's MLX example"
    assert done.dropped == ["token_embeddings.weight[512:]"]
    assert "model_name" not in written(done.output)


def test_apples_four_bits_are_expanded_and_their_embedding_is_cut(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MLX 0.10 quantized: linear layers alone."""
    monkeypatch.setattr(corenet, "PADDING_INDEX", 512)
    stored = {name: mx.array(array).astype(mx.float16) for name, array in FLAT.items()}
    plain = {f"transformer.{name}": array.astype(mx.float32) for name, array in stored.items()}
    plain["transformer.token_embeddings.weight"] = plain["transformer.token_embeddings.weight"][:512]
    for name in [name for name, array in stored.items() if "proj" in name and array.shape[1] % 32 == 0]:
        words, scales, biases = mx.quantize(stored[name], group_size=32, bits=4)
        stem = name.removesuffix("weight")
        stored |= {name: words, f"{stem}scales": scales, f"{stem}biases": biases}
        exact = mx.dequantize(words, scales.astype(mx.float32), biases.astype(mx.float32), group_size=32, bits=4)
        plain[f"transformer.{name}"] = exact
    source = write_apple(tmp_path / "s", stored, quantization={"group_size": 32, "bits": 4})
    output = convert(source, tmp_path / "out", tokenizer=openelm, dtype="float32").output
    arrays = mx.load(str(output / "model.safetensors"))
    assert isinstance(arrays, dict)
    assert arrays.keys() == plain.keys()
    assert all(mx.array_equal(arrays[name], plain[name]).item() for name in plain)
    assert elm_mlx.load(output).generate("Once", 2).tokens


# Hugging Face


def test_a_repository_with_every_layout_is_read_by_its_index(openelm: Path, tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "s", OPENELM, shards=3)
    (source / "original").mkdir()
    for name in ("pytorch_model.bin", "model-00009-of-00009.safetensors", "consolidated.00.pth", "params.json",
                 "weights.safetensors", "checkpoint_average.pt", "original/consolidated.00.pth"):  # fmt: skip
        (source / name).write_bytes(b"another copy, which is never opened")
    done = convert(source, tmp_path / "out", dtype="float32")
    assert np.array_equal(logits(done.output), logits(openelm))


def test_metas_folder_inside_a_repository_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "s" / "original").mkdir(parents=True)
    with pytest.raises(NotFound, match=r"no weights in .*Meta's files may lie in .*original"):
        convert(tmp_path / "s")


@pytest.mark.parametrize("name", ["openelm", "llama-3.2"])
def test_a_wrapped_model_is_unwrapped(tmp_path: Path, name: str) -> None:
    raw = checkpoints.CONFIGS[name]
    plain = checkpoints.write(tmp_path / "plain", raw)
    arrays = checkpoints.weights(raw)
    file = checkpoints.save_torch(tmp_path / "s" / "pytorch_model.bin", {f"module.{n}": a for n, a in arrays.items()})
    shutil.copyfile(plain / "config.json", file.parent / "config.json")
    output = convert(file.parent, tmp_path / "out", tokenizer=plain, dtype="float32").output
    assert np.array_equal(logits(output), logits(plain))


def test_a_weight_under_two_names_is_refused_with_both(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "s", checkpoints.CONFIGS["llama-3"])
    norm = "model.norm.weight"
    checkpoints.save(folder, mx.load(str(folder / "model.safetensors")) | {f"module.{norm}": mx.ones(96)})  # type: ignore[operator]
    with pytest.raises(BadCheckpoint, match=f"holds {norm} twice, as (module.)?{norm} and as (module.)?{norm}"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["openelm", "llama-3.1"])
def test_a_changed_vocabulary_is_taken_from_config_json(tmp_path: Path, name: str) -> None:
    raw = checkpoints.CONFIGS[name] | {"vocab_size": checkpoints.VOCAB + 5, "eos_token_id": checkpoints.VOCAB + 3}
    source = checkpoints.write(tmp_path / "s", raw)
    output = convert(source, tmp_path / "out", dtype="float32").output
    assert elm_mlx.load(output).logits([1, checkpoints.VOCAB + 4]).shape == (2, checkpoints.VOCAB + 5)
    assert np.array_equal(logits(output), logits(source))
    assert written(output)["eos_token_id"] == checkpoints.VOCAB + 3


MISTRAL = checkpoints.LLAMA | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}


def test_mistral_without_a_window_is_a_llama(tmp_path: Path) -> None:
    from helpers.mlx_lm_alone import load_model

    source = checkpoints.write(tmp_path / "s", MISTRAL)
    output = convert(source, tmp_path / "out", dtype="float32").output
    llama = checkpoints.write(tmp_path / "llama", checkpoints.LLAMA)
    assert np.array_equal(logits(output), logits(llama))
    assert np.array_equal(logits(source), logits(llama))
    assert (written(output)["model_type"], written(output)["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert load_model(output)


@pytest.mark.parametrize("change", [{"sliding_window": 4096}, {"sliding_window": "no"}, {}])
def test_mistral_with_a_window_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """Which transformers takes for granted where nothing is said."""
    raw = {key: value for key, value in MISTRAL.items() if key != "sliding_window"} | change
    with pytest.raises(Unsupported, match="sliding_window"):
        convert(checkpoints.write(tmp_path / "s", raw))


def test_weights_without_a_configuration_are_refused(openelm: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    shutil.copyfile(openelm / "model.safetensors", tmp_path / "s" / "model.safetensors")
    with pytest.raises(NotFound, match=r"config\.json"):
        convert(tmp_path / "s")
    (tmp_path / "s" / "config.json").write_text('{"vocab_size": 512}', encoding="utf-8")
    with pytest.raises(BadCheckpoint, match="model_type"):
        convert(tmp_path / "s")
