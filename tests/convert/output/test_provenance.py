"""conversion.json says what an output was made of, and no more than that."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.convert.output import provenance

OPENELM = checkpoints.CONFIGS["openelm"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def written(output: Path) -> dict[str, Any]:
    return json.loads((output / "conversion.json").read_text(encoding="utf-8"))


def facts(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_it_names_files_tokenizer_versions_and_options(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "OpenELM", checkpoints.CONFIGS["openelm"], shards=2, tokenizer=False)
    (source / "generation_config.json").write_text('{"max_length": 9}', encoding="utf-8")
    (source / "params.json").write_text("stray", encoding="utf-8")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    files = ["config.json", "generation_config.json", "model.safetensors.index.json", *shards]
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
        "tokenizer": {
            name: facts(checkpoints.TOKENIZER / name) for name in ("tokenizer.json", "tokenizer_config.json")
        },
    }


def test_only_what_a_layout_reads_is_named(openelm: Path, tmp_path: Path) -> None:
    corenet, meta = tmp_path / "corenet", tmp_path / "meta"
    checkpoints.save_torch(corenet / "checkpoint_average.pt", checkpoints.corenet(checkpoints.weights(OPENELM)))
    yaml = "model: {language_modeling: {general_gpt: {vocab_size: 640, padding_index: 512}}}"
    (corenet / "config.yaml").write_text(yaml, encoding="utf-8")
    (corenet / "another.yaml").write_text("a: b", encoding="utf-8")
    arrays = checkpoints.meta(checkpoints.weights(checkpoints.META), checkpoints.META)
    checkpoints.write_meta(meta, checkpoints.META_PARAMS, [arrays])
    shutil.copyfile(openelm / "config.json", meta / "config.json")
    for source, names in (
        (corenet, ["checkpoint_average.pt", "config.yaml"]),
        (meta, ["consolidated.00.pth", "params.json"]),
    ):
        said = written(convert(source, tmp_path / f"{source.name}-out", tokenizer=openelm).output)
        assert said["files"] == {name: facts(source / name) for name in names}


def test_files_of_the_tokenizer_are_named(openelm: Path, tmp_path: Path) -> None:
    given = Path(shutil.copytree(openelm, tmp_path / "given", ignore=shutil.ignore_patterns("model*", "config*")))
    (given / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    (given / "special_tokens_map.json").write_text("{}", encoding="utf-8")
    (given / "added_tokens.json").write_text('{"<x>": 512}', encoding="utf-8")
    output = convert(openelm, tmp_path / "out", tokenizer=given).output
    said = written(output)
    copied = ["added_tokens.json", "chat_template.jinja", "special_tokens_map.json"]
    names = ["tokenizer.json", "tokenizer_config.json", *copied]
    assert said["tokenizer"] == {name: facts(given / name) for name in names}
    assert all((output / name).read_bytes() == (given / name).read_bytes() for name in copied)


@pytest.mark.parametrize("folder", ["blobs", "models--a--b/blobs"])
def test_a_name_is_no_hash_outside_of_the_hubs_cache(openelm: Path, tmp_path: Path, folder: str) -> None:
    """Anyone can name a file so."""
    source = Path(shutil.copytree(openelm, tmp_path / "source"))
    blob = source / folder / ("a" * 64)
    blob.parent.mkdir(parents=True)
    (source / "model.safetensors").rename(blob)
    (source / "model.safetensors").symlink_to(blob)
    assert written(convert(source, tmp_path / "out").output)["files"]["model.safetensors"] == facts(blob)


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
    assert provenance.origin(snapshot / "original") == {"repository": "apple/OpenELM-270M", "revision": COMMIT}


def test_a_folder_s_name_is_one_line_of_the_card(openelm: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(openelm, tmp_path / "a\n---\n# b")
    text = (convert(odd, tmp_path / "out").output / "README.md").read_text(encoding="utf-8")
    assert "\n# a\ufffd---\ufffd# b for MLX\n" in text
    assert text.count("\n---\n") == 1


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
