"""conversion.json says what an output was made of, and no more than that."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import mlx.core as mx
import pytest

import elm_mlx
from elm_mlx.convert import convert, provenance

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def written(output: Path) -> dict[str, Any]:
    return json.loads((output / "conversion.json").read_text(encoding="utf-8"))


def facts(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_it_names_files_tokenizer_versions_and_options(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "OpenELM", checkpoints.CONFIGS["openelm"], shards=2, tokenizer=False)
    files = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    said = written(convert(source, tmp_path / "out", bits=4, tokenizer=checkpoints.TOKENIZER).output)
    assert said == {
        "elm_mlx": elm_mlx.__version__,
        "mlx": mx.__version__,  # type: ignore[attr-defined]
        "options": {
            "quantization": {"group_size": 64, "bits": 4, "mode": "affine"},
            "dtype": "bfloat16",
            "max_shard_size": 5.0,
        },
        "source": {"directory": "OpenELM", "layout": "Hugging Face, safetensors"},
        "files": {name: facts(source / name) for name in files},
        "tokenizer": {"tokenizer.json": facts(checkpoints.TOKENIZER / "tokenizer.json")},
    }


def test_a_snapshot_of_the_hub_is_named_and_its_blobs_are_not_read_again(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--apple--OpenELM-270M" / "snapshots" / COMMIT
    blob = snapshot.parents[1] / "blobs" / ("a" * 64)
    shutil.copytree(openelm, snapshot)
    blob.parent.mkdir()
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    said = written(convert(snapshot, tmp_path / "out").output)
    assert said["source"] == {
        "repository": "apple/OpenELM-270M",
        "revision": COMMIT,
        "layout": "Hugging Face, safetensors",
    }
    assert said["files"]["model.safetensors"] == {"bytes": blob.stat().st_size, "sha256": "a" * 64}
    assert said["files"]["config.json"] == facts(openelm / "config.json")


def test_the_same_input_elsewhere_gives_the_same_bytes(openelm: Path, tmp_path: Path) -> None:
    outputs = []
    for place in ("here", "there"):
        shutil.copytree(openelm, tmp_path / place / "openelm", copy_function=shutil.copyfile)
        outputs.append(convert(tmp_path / place / "openelm", tmp_path / place / "out").output)
    here, there = ({file.name: file.read_bytes() for file in output.iterdir()} for output in outputs)
    assert here == there
    assert str(tmp_path) not in (outputs[0] / "conversion.json").read_text(encoding="utf-8")


def test_an_unreadable_file_ends_the_conversion(openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread's error is the run's."""

    def unreadable(*_: object) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(provenance, "sha256", unreadable)
    with pytest.raises(elm_mlx.ElmError, match="cannot be read"):
        convert(openelm, tmp_path / "out")
    assert not [*tmp_path.iterdir()]
