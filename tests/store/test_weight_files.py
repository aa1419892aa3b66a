"""Which files are a model's weights: transformers' choice where it makes one, and mlx-lm's where it makes none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound, Unsupported
from elm_mlx.store.weight_files import (
    MAX_INDEX_BYTES,
    check_directory,
    choose_weights,
    is_file_name,
    read_index,
    weight_files,
)

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
FIRST, SECOND, THIRD = (f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))


def indexed(folder: Path, places: object, name: str = INDEX) -> Path:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    return folder


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def unread(name: str) -> list[str]:
    raise AssertionError(f"{name} was read")


def named_by(name: str) -> list[str]:
    return [f"named by {name}"]


@pytest.mark.parametrize(
    ("names", "files", "read"),
    [
        ([WHOLE, INDEX, FIRST, TORCH], [WHOLE], unread),  # the index was left over, or copied from the source
        ([INDEX, FIRST, SECOND, TORCH], [f"named by {INDEX}"], named_by),
        ([TORCH, TORCH_INDEX, "layers-0.safetensors"], [TORCH], unread),
        ([TORCH_INDEX, FIRST], [f"named by {TORCH_INDEX}"], named_by),
        ([THIRD, FIRST, SECOND], [FIRST, SECOND, THIRD], unread),
        (["layers-1.safetensors", "layers-0.safetensors"], ["layers-0.safetensors", "layers-1.safetensors"], unread),
        ([FIRST, THIRD], [FIRST, THIRD, SECOND], unread),  # the one that is missing, too
        ([FIRST, SECOND, THIRD, "a/model.safetensors", "._model.safetensors"], [FIRST, SECOND, THIRD], unread),
        (["pytorch_model-00001-of-00001.bin", "training_args.bin"], ["pytorch_model-00001-of-00001.bin"], unread),
        (["model-00001-of-99999.safetensors"], ["model-00001-of-99999.safetensors", "model-00002-of-99999.safetensors"],
         unread),
        (["flora.safetensors"], ["flora.safetensors"], unread),
    ],
)  # fmt: skip
def test_the_first_kind_that_is_there_is_taken(
    names: list[str], files: list[str], read: Callable[[str], list[str]]
) -> None:
    assert choose_weights(names, read).files == files


OTHERS = ["adapter_model.safetensors", "adapters.safetensors", "0000100_adapters.safetensors", "optimizer.pt",
          "pytorch_lora_weights.safetensors", "consolidated.safetensors", "consolidated-00001-of-00002.safetensors",
          "training_args.bin", "optimizer.bin", "scheduler.safetensors", "original/model.safetensors", "x.gguf",
          "Optimizer-State.safetensors", "rng_state.pth", "model.onnx"]  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_lies_beside_a_model_is_not_its_weights(name: str) -> None:
    assert choose_weights([name, "config.json"], unread).files == []
    assert choose_weights([name, FIRST, SECOND, THIRD], unread).files == [FIRST, SECOND, THIRD]


def test_a_directory_s_files_and_its_index_are_found(tmp_path: Path) -> None:
    assert weight_files(tmp_path).all_files == []
    filled(tmp_path, "layers-0.safetensors", "w/1.safetensors")
    indexed(tmp_path, {"a": "layers-0.safetensors", "b": "w/1.safetensors", "c": "layers-0.safetensors"})
    assert weight_files(tmp_path).all_files == [INDEX, "layers-0.safetensors", "w/1.safetensors"]
    indexed(filled(tmp_path, WHOLE), {"a": "../x"})
    assert weight_files(tmp_path).all_files == [WHOLE]


def test_a_member_of_a_series_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"There is no {SECOND} in .* a part of the model's weights. Fetch it"):
        weight_files(filled(tmp_path, FIRST, THIRD))


def test_an_index_of_other_files_says_which_and_the_way_out_works(tmp_path: Path) -> None:
    filled(tmp_path, FIRST, SECOND, THIRD)
    indexed(tmp_path, {"a": FIRST, "b": "old-1.safetensors", "c": "old-2.safetensors"})
    with pytest.raises(
        NotFound, match=rf"no old-1\.safetensors in .*, which {INDEX} names \(2 such.* Or remove {INDEX}"
    ):
        weight_files(tmp_path)
    (tmp_path / INDEX).unlink()
    assert weight_files(tmp_path).files == [FIRST, SECOND, THIRD]
    (tmp_path / SECOND).unlink()
    with pytest.raises(NotFound) as refused:
        weight_files(indexed(tmp_path, {"a": FIRST, "b": SECOND}))
    assert "Or remove" not in str(refused.value)  # as the others are not whole


OUTSIDE = ["../other.safetensors", "/etc/passwd", ".", "..", "", "./a", "a/", "a//b", "a/../b", "a/./b", 5, None, [],
           "a" * 300, "a/" + "é" * 200]  # fmt: skip


@pytest.mark.parametrize("file", OUTSIDE, ids=repr)
def test_an_index_may_not_leave_its_directory(tmp_path: Path, file: object) -> None:
    with pytest.raises(BadCheckpoint, match="names no file in its directory"):
        weight_files(indexed(tmp_path, {"a": file}))


@pytest.mark.parametrize("file", ["absent.safetensors", "nul\0", "...", "sub/absent.safetensors"])
def test_an_index_naming_an_absent_file_says_which(tmp_path: Path, file: str) -> None:
    with pytest.raises(NotFound, match="There is no"):
        weight_files(indexed(tmp_path, {"a": file}))


@pytest.mark.parametrize("places", [{}, [], None, "a", 5])
def test_an_index_of_nothing_is_refused(tmp_path: Path, places: object) -> None:
    with pytest.raises(BadCheckpoint, match="lists no tensors"):
        weight_files(indexed(tmp_path, places))


def test_an_index_with_half_a_letter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="is not valid JSON"):
        weight_files(indexed(tmp_path, {"a": "\ud800"}))


@pytest.mark.parametrize("content", [b'{"weight_map":{' + b'"a":"b",' * 500_001 + b"}}", b" " * (MAX_INDEX_BYTES + 1)])
def test_an_index_is_refused_before_it_is_read_if_it_would_cost_much(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / INDEX).write_bytes(content)
    monkeypatch.setattr(json, "loads", pytest.fail)
    with pytest.raises(BadCheckpoint, match=rf"{INDEX}( lists over 60,000 tensors| is over 20 MB)"):
        read_index(tmp_path / INDEX)


def test_only_what_can_be_no_model_s_name_means_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(filled(tmp_path, "model.safetensors", "llama-3-8b", "apple/OpenELM-270M"))
    assert all(map(is_file_name, ["x.gguf", "owner/X.GGUF", "model.safetensors", "apple/OpenELM-270M"]))
    assert not any(map(is_file_name, ["llama-3-8b", "apple/OpenELM-450M", "other.safetensors", "llama-3.1-8b"]))


def test_a_file_in_a_directory_s_place_is_answered_with_what_to_give(tmp_path: Path) -> None:
    filled(tmp_path, "m/model.safetensors", "m/config.json", "m/tokenizer.json", "m/other.safetensors", "m/x.pth",
           "x.safetensors", "x.gguf", "config.json/x")  # fmt: skip
    way_out = {
        "m/model.safetensors": rf"file of weights.* Give the directory: {tmp_path / 'm'}$",
        "m/other.safetensors": rf"Convert it: elm-mlx convert {tmp_path / 'm' / 'other.safetensors'}$",
        "m/x.pth": rf"Convert it: elm-mlx convert {tmp_path / 'm' / 'x.pth'}$",
    }
    for name, words in way_out.items():
        with pytest.raises(InvalidRequest, match=words):
            check_directory(tmp_path / name)
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(InvalidRequest, match=r"Put its config\.json .* beside it, and run: elm-mlx convert"):
        check_directory(tmp_path / "m" / "x.pth")
    with pytest.raises(Unsupported, match=r"x\.gguf is a GGUF file.* elm-mlx convert "):
        check_directory(tmp_path / "x.gguf")
    with pytest.raises(NotFound, match=r"There is no file .*nowhere\.gguf\."):
        check_directory(tmp_path / "nowhere.gguf")
    with pytest.raises(NotFound, match=r"There is no directory .*x: that is a file\."):
        check_directory(tmp_path / "config.json" / "x")
    check_directory(tmp_path)
