"""Weights as they are in the wild: loaded where transformers or mlx-lm loads them, else told what to do about it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.edits import edit_config, edit_index, edit_weights, refused

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.errors import BadCheckpoint, NotFound, Unsupported

NORM, EMBEDDING = "transformer.norm.weight", "transformer.token_embeddings.weight"
DIVISIBLE = checkpoints.CONFIGS["llama-3"] | {"hidden_size": 128, "head_dim": 16, "intermediate_size": 192}


@pytest.fixture
def folder(openelm: Path, tmp_path: Path) -> Path:
    """A copy of the tiny OpenELM checkpoint, to be changed."""
    return Path(shutil.copytree(openelm, tmp_path / "model"))


def swap(places: dict[str, str]) -> None:
    first, second = sorted(set(places.values()))
    places[NORM] = second if places[NORM] == first else first


def test_a_tensor_may_lie_in_another_file_than_the_index_says(folder: Path) -> None:
    logits = elm_mlx.load(folder).logits([1, 5])
    edit_weights(folder, lambda arrays: None, shards=2)
    edit_index(folder, swap)
    assert mx.array_equal(elm_mlx.load(folder).logits([1, 5]), logits)


def beside(folder: Path) -> None:
    """An index of the source's shards, left over beside a whole file."""
    checkpoints.save(folder, {"a": mx.zeros(3)}, shards=2)
    for shard in folder.glob("model-*"):
        shard.unlink()


def renamed_shards(folder: Path) -> None:
    """Shards of any name, in a folder of their own."""
    edit_weights(folder, lambda arrays: None, shards=2)
    (folder / "layers").mkdir()
    for number, shard in enumerate(sorted(folder.glob("model-*.safetensors"))):
        shard.rename(folder / "layers" / f"{number}.safetensors")
    edit_index(
        folder, lambda places: places.update({n: f"layers/{int(f[10]) - 1}.safetensors" for n, f in places.items()})
    )


def without_index(folder: Path) -> None:
    edit_weights(folder, lambda arrays: None, shards=3)
    (folder / "model.safetensors.index.json").unlink()


def any_name(folder: Path) -> None:
    without_index(folder)
    for number, shard in enumerate(sorted(folder.glob("model-*"))):
        shard.rename(folder / f"layers-{number}.safetensors")
    (folder / "adapter_model.safetensors").write_bytes(b"no weights of the model")


def place_a_head(folder: Path) -> None:
    """An index that places the head of a tied model, which is not stored."""
    edit_weights(folder, lambda arrays: None, shards=2)
    edit_index(folder, lambda places: places.update({"lm_head.weight": min(places.values())}))


def only_the_head(folder: Path) -> None:
    """A tied model of which the head is stored and not the embedding."""
    edit_weights(folder, lambda arrays: arrays.update({"lm_head.weight": arrays.pop(EMBEDDING)}))


AS_THEY_ARE = [beside, renamed_shards, without_index, any_name, place_a_head, only_the_head]


@pytest.mark.parametrize("change", AS_THEY_ARE, ids=lambda change: change.__name__)
def test_weights_as_they_are_in_the_wild_make_the_same_model(folder: Path, change: Callable[[Path], None]) -> None:
    """transformers loads all but those without an index, which mlx-lm loads."""
    logits = elm_mlx.load(folder).logits([1, 5])
    change(folder)
    assert mx.array_equal(elm_mlx.load(folder).logits([1, 5]), logits)
    assert mx.array_equal(elm_mlx.load(convert(folder, dtype="float32").output).logits([1, 5]), logits)


def test_a_needed_tensor_that_the_index_places_and_no_file_holds_is_named(folder: Path) -> None:
    edit_weights(folder, lambda arrays: arrays.pop(NORM), shards=2)
    edit_index(folder, lambda places: places.update({NORM: min(places.values())}))
    refused(folder, f"missing {NORM}")


def test_a_quantized_head_stands_for_its_embedding(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "s", DIVISIBLE | {"tie_word_embeddings": True})
    folder = convert(source, tmp_path / "m", bits=4).output
    logits = elm_mlx.load(folder).logits([1, 5])
    stem = "model.embed_tokens."

    def move(arrays: dict[str, mx.array]) -> None:
        for name in [name for name in arrays if name.startswith(stem)]:
            arrays["lm_head." + name.removeprefix(stem)] = arrays.pop(name)

    edit_weights(folder, move)
    assert mx.array_equal(elm_mlx.load(folder).logits([1, 5]), logits)


LOST = [
    {"bits": 4, "group_size": 64},
    {"bits": 6, "group_size": 32},
    {"mode": "mxfp4"},
    {"mode": "nvfp4"},
]


@pytest.mark.parametrize("how", LOST, ids=str)
def test_a_lost_quantization_key_is_named_and_what_the_error_says_mends_it(tmp_path: Path, how: dict[str, Any]) -> None:
    source = checkpoints.write(tmp_path / "s", DIVISIBLE)
    folder = convert(source, tmp_path / "m", **how).output
    logits = elm_mlx.load(folder).logits([1, 5])
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    plain = {key: value for key, value in raw.items() if not key.startswith("quantization")}
    (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    refused(
        folder, r"config\.json has lost its key `quantization`.*embed_tokens\.weight has \.scales.* Take config\.json"
    )
    with pytest.raises(BadCheckpoint) as error:
        convert(folder, tmp_path / "out")
    said = re.search(r'Or add ("quantization": {.*}) to it', str(error.value))
    assert said
    edit_config(folder, **json.loads(f"{{{said[1]}}}"))
    assert mx.array_equal(elm_mlx.load(folder).logits([1, 5]), logits)


def test_where_matrices_are_quantized_differently_no_one_setting_is_advised(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "s", DIVISIBLE)
    folder = convert(source, tmp_path / "m", recipe="mixed-2-4").output
    edit_config(folder, quantization=None, quantization_config=None)
    refused(folder, r"Take config\.json from the repository of the weights\.$")


@pytest.mark.parametrize("bits", [None, 4])
def test_a_head_that_is_not_there_may_be_the_embedding_which_config_json_must_say(
    tmp_path: Path, bits: int | None
) -> None:
    source = checkpoints.write(tmp_path / "s", DIVISIBLE | {"tie_word_embeddings": True})
    folder = convert(source, tmp_path / "m", bits=bits).output
    edit_config(folder, tie_word_embeddings=None)
    refused(folder, r"missing lm_head.*\. Or set tie_word_embeddings .* to true in config\.json")
    edit_config(folder, tie_word_embeddings=True)
    assert elm_mlx.load(folder).generate("the", max_tokens=2).tokens


OTHER_NAMES: dict[str, Callable[[str], str]] = {
    "compiled in parallel": lambda name: f"_orig_mod.module.{name}",
    "compiled inside": lambda name: re.sub(r"^(model|transformer)\.", r"\1._orig_mod.", name),
    "compiled by layers": lambda name: re.sub(r"(layers\.\d+)\.", r"\1._orig_mod._checkpoint_wrapped_module.", name),
    "sharded": lambda name: f"_fsdp_wrapped_module.{name}",
    "a part of a training's own": lambda name: f"model.{name}",
    "inside PEFT, merged": lambda name: f"base_model.model.{name}",
    "without a head": lambda name: re.sub(r"^(model|transformer)\.", "", name),
}


@pytest.mark.parametrize("kind", OTHER_NAMES)
@pytest.mark.parametrize("family", ["openelm", "llama-3.2"])
def test_weights_under_other_names_are_told_to_be_converted_which_works(tmp_path: Path, kind: str, family: str) -> None:
    folder = checkpoints.write(tmp_path / "m", checkpoints.CONFIGS[family])
    logits = elm_mlx.load(folder).logits([1, 5])
    edit_weights(folder, lambda arrays: rename_all(arrays, OTHER_NAMES[kind]))
    refused(folder, rf"changed their names: .* elm-mlx convert {folder}$", Unsupported)
    assert mx.array_equal(elm_mlx.load(convert(folder, dtype="float32").output).logits([1, 5]), logits)


def rename_all(arrays: dict[str, mx.array], new: Callable[[str], str]) -> None:
    renamed = {new(name): array for name, array in arrays.items()}
    arrays.clear()
    arrays.update(renamed)


def test_a_directory_of_gguf_alone_says_what_to_give(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-Q4.gguf")
    convert_it = r"model-Q4\.gguf is a GGUF file, which runs once it is converted: elm-mlx convert .+/model-Q4\.gguf"
    refused(folder, rf"no weights in .* {convert_it}", NotFound)
    for named in (folder, folder / "model-Q4.gguf"):
        with pytest.raises(BadCheckpoint, match=r"model-Q4\.gguf is not a GGUF file, or is damaged: it does not begin"):
            convert(named)
    refused(folder / "model-Q4.gguf", r"model-Q4\.gguf is a GGUF file", Unsupported)
