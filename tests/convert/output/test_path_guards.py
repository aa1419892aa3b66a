"""A conversion loses nothing that it reads, and carries nothing into its output that is not the checkpoint's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.errors import BadCheckpoint, InvalidRequest, TargetExists
from elm_mlx.files import MAX_SMALL_BYTES

SIDE_FILES = ("special_tokens_map.json", "chat_template.jinja", "generation_config.json", "tokenizer_config.json")


@pytest.fixture
def source(openelm: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(openelm, tmp_path / "source"))


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def moved(file: Path, place: Path) -> None:
    """Moves a file and leaves a link to it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    file.rename(place)
    file.symlink_to(place)


@pytest.mark.parametrize("name", [".out.partial", ".out.replaced", ".out.partial/source"])
def test_a_source_in_the_way_of_the_output_is_kept(openelm: Path, tmp_path: Path, name: str) -> None:
    source = Path(shutil.copytree(openelm, tmp_path / name))
    before = content(source)
    with pytest.raises(TargetExists, match="holds the source"):
        convert(source, tmp_path / "out")
    assert content(source) == before


def test_a_tokenizer_in_the_way_of_the_output_is_kept(openelm: Path, tmp_path: Path) -> None:
    given = Path(shutil.copytree(checkpoints.TOKENIZER, tmp_path / ".out.partial"))
    before = content(given)
    with pytest.raises(TargetExists, match="holds the source"):
        convert(openelm, tmp_path / "out", tokenizer=given)
    assert content(given) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_source_that_links_into_the_output_is_kept(source: Path, name: str) -> None:
    target = source / "out"
    moved(source / name, target / name)
    before = content(target)
    with pytest.raises(TargetExists, match="holds the source"):
        convert(source, target, force=True)
    assert content(target) == before


def test_the_source_under_another_spelling_is_the_source(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk where a and A are one."""
    for method in ("exists", "samefile"):
        right = getattr(Path, method)
        monkeypatch.setattr(
            Path, method, lambda self, *other, right=right: right(Path(str(self).replace("SOURCE", "source")), *other)
        )
    with pytest.raises(TargetExists, match="holds the source"):
        convert(source, source.with_name("SOURCE"), force=True)


def test_what_another_run_takes_away_meanwhile_is_not_in_the_way(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, right = tmp_path / ".out.partial", Path.samefile
    partial.mkdir()

    def later(self: Path, other: Path) -> bool:
        if partial.exists():
            partial.rename(tmp_path / "its name")
        return right(self, other)

    monkeypatch.setattr(Path, "samefile", later)
    assert convert(source, tmp_path / "out").output.is_dir()


@pytest.mark.parametrize("name", SIDE_FILES)
def test_a_link_out_of_the_source_is_not_copied(source: Path, tmp_path: Path, name: str) -> None:
    (source / name).unlink(missing_ok=True)
    (tmp_path / "id_rsa").write_text("{}", encoding="utf-8")
    (source / name).symlink_to(tmp_path / "id_rsa")
    with pytest.raises(BadCheckpoint, match=rf"{name} is a link to .*id_rsa, which is not in .*source\."):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("special_tokens_map.json", b"secret"),
        ("special_tokens_map.json", b"[]"),
        ("chat_template.jinja", b"\xff"),
        ("chat_template.jinja", b"a" * (MAX_SMALL_BYTES + 1)),
    ],
    ids=["text", "a list", "bytes", "too long"],
)
def test_what_is_copied_is_what_its_name_says(source: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (source / name).write_bytes(content)
    with pytest.raises(BadCheckpoint, match=name):
        convert(source, tmp_path / "out")


def test_weights_may_lie_on_another_disk(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "source", checkpoints.CONFIGS["openelm"], shards=2)
    moved(source / "model-00002-of-00002.safetensors", tmp_path / "another" / "model.safetensors")
    assert elm_mlx.load(convert(source, tmp_path / "out").output).generate("a", 1).tokens


def test_what_is_no_weight_may_not_pass_for_one(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "source", checkpoints.CONFIGS["openelm"])
    (tmp_path / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    (source / "model.safetensors").unlink()
    (source / "model.safetensors").symlink_to(tmp_path / "key")
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
        convert(source, tmp_path / "out")


def test_links_that_stay_inside_are_followed(source: Path, openelm: Path, tmp_path: Path) -> None:
    moved(source / "model.safetensors", source / "files" / "weights")
    done, plain = convert(source, tmp_path / "out").output, convert(openelm, tmp_path / "plain").output
    assert (done / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_what_the_user_names_may_be_a_link_to_anywhere(source: Path, tmp_path: Path) -> None:
    moved(source / "model.safetensors", tmp_path / "disk" / "weights")
    moved(source / "tokenizer.json", tmp_path / "disk" / "tokenizer")
    convert(source / "model.safetensors", tmp_path / "out", tokenizer=source / "tokenizer.json")
    assert elm_mlx.load(tmp_path / "out").generate("a", 1).tokens


@pytest.mark.parametrize("blobs", ["models--apple--OpenELM-270M", "models--me--secret"])
def test_a_snapshot_of_the_hub_links_to_its_own_blobs_alone(openelm: Path, tmp_path: Path, blobs: str) -> None:
    snapshot = tmp_path / "models--apple--OpenELM-270M" / "snapshots" / ("c" * 40)
    shutil.copytree(openelm, snapshot)
    for file in [*snapshot.iterdir()]:
        blob = tmp_path / blobs / "blobs" / file.name
        moved(file, blob)
        file.unlink()
        file.symlink_to(os.path.relpath(blob, snapshot))
    if "apple" in blobs:
        assert convert(snapshot, tmp_path / "out").bytes
    else:
        with pytest.raises(BadCheckpoint, match=r"is a link to .*secret"):
            convert(snapshot, tmp_path / "out")


@pytest.mark.parametrize("name", [*SIDE_FILES, "config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_a_pipe_among_the_files_is_refused(source: Path, tmp_path: Path, pipe: Path, name: str) -> None:
    if "index" in name:
        (source / "model.safetensors").unlink()
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(pipe)
    with pytest.raises(elm_mlx.ElmError, match=r"a pipe or a device|no tokenizer"):
        convert(source, tmp_path / "out")


def unnameable(folder: Path) -> Path:
    """A folder whose name is no UTF-8, where the disk has such."""
    place = Path(os.fsdecode(os.fsencode(folder) + b"\xff"))
    try:
        place.mkdir()
    except OSError:
        pytest.skip("every name on this disk is UTF-8")
    return place


def test_a_source_with_a_name_that_is_no_text_is_converted(openelm: Path, tmp_path: Path) -> None:
    source = shutil.copytree(openelm, unnameable(tmp_path / "model"), dirs_exist_ok=True)
    output = convert(source, tmp_path / "out").output
    assert "# model\ufffd for MLX" in (output / "README.md").read_text(encoding="utf-8")
    assert elm_mlx.load(output).generate("a", 1).tokens


@pytest.mark.parametrize("name", ["file/out", "n" * 250])
def test_an_output_that_no_folder_can_be_is_told_from_the_source(source: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(elm_mlx.ElmError, match=rf"{name} cannot be written: .* output"):
        convert(source, tmp_path / name)


def test_the_root_is_no_output(source: Path) -> None:
    with pytest.raises(InvalidRequest, match="Name a folder inside it"):
        convert(source, "/", force=True)


def test_an_output_with_a_name_that_is_no_text_is_refused_early(source: Path, tmp_path: Path) -> None:
    """MLX would not open it."""
    for target in (unnameable(tmp_path / "out"), unnameable(tmp_path / "folder") / "out"):
        with pytest.raises(InvalidRequest, match=r"is not UTF-8.* output"):
            convert(source, target, progress=lambda *at: pytest.fail("work was done"))
