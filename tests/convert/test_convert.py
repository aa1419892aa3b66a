"""Conversion keeps every number, writes what mlx-lm reads, and leaves nothing half done."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.config import config_from_dict
from elm_mlx.convert import convert
from elm_mlx.errors import BadCheckpoint, DiskFull, InvalidRequest, NotFound, TargetExists
from elm_mlx.store import weights

# Every matrix has rows that groups of 32, 64 and 128 divide.
WIDE = checkpoints.OPENELM | {"model_dim": 128, "head_dim": 32, "ffn_dim_divisor": 128, "num_transformer_layers": 2,
                              "num_gqa_groups": 4, "qkv_multipliers": [1.0, 2.0]}  # fmt: skip
COMBINATIONS: list[dict[str, Any]] = [
    *({"bits": bits, "group_size": group} for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)),
    *({"mode": mode} for mode in ("mxfp4", "mxfp8", "nvfp4")),
]


def arrays_of(directory: Path) -> dict[str, mx.array]:
    """All arrays of a directory."""
    return {k: v for file in directory.glob("*.safetensors") for k, v in mx.load(str(file)).items()}  # type: ignore[union-attr]


def leftovers(target: Path) -> list[str]:
    """What lies beside a target that was never written."""
    return [path.name for path in target.parent.iterdir()]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for every combination of bits, group and mode."""
    return checkpoints.write(tmp_path_factory.mktemp("wide") / "wide", WIDE)


def test_float32_conversion_keeps_every_bit(source: Path, tmp_path: Path) -> None:
    done = convert(source, tmp_path / "out", dtype="float32")
    ids = checkpoints.prompt()
    ours, theirs = elm_mlx.load(done.output).logits(ids), elm_mlx.load(source).logits(ids)
    assert np.array_equal(np.array(ours), np.array(theirs))
    assert done.bits_per_weight == 32


def test_sixteen_bit_checkpoints_pass_through_unchanged(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "source", checkpoints.CONFIGS["llama-3.1"], dtype=mx.bfloat16)
    convert(source, tmp_path / "out")
    before, after = arrays_of(source), arrays_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(mx.array_equal(before[n].view(mx.uint16), after[n].view(mx.uint16)).item() for n in before)


def test_a_sharded_source_gives_the_same_files_as_a_single_one(openelm: Path, tmp_path: Path) -> None:
    sharded = checkpoints.write(tmp_path / "sharded", checkpoints.CONFIGS["openelm"], shards=3)
    for source, target in ((openelm, "a"), (sharded, "b")):
        convert(source, tmp_path / target, bits=4)
    for file in (tmp_path / "a").iterdir():
        same = file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
        assert same == (file.name not in ("conversion.json", "README.md")), file.name  # which name the source


def test_a_weights_file_beside_its_config_is_a_source(openelm: Path, tmp_path: Path) -> None:
    convert(openelm / "model.safetensors", tmp_path / "file")
    convert(openelm, tmp_path / "directory")
    assert (tmp_path / "file/model.safetensors").read_bytes() == (tmp_path / "directory/model.safetensors").read_bytes()


@pytest.mark.parametrize("how", COMBINATIONS, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_quantized_output_equals_quantizing_in_memory(
    wide: Path, tmp_path: Path, how: dict[str, Any], dtype: str
) -> None:
    done = convert(wide, tmp_path / "out", dtype=dtype, **how)
    written, kind = arrays_of(done.output), getattr(mx, dtype)
    setting = json.loads((done.output / "config.json").read_text(encoding="utf-8"))["quantization"]
    assert setting["bits"] == how.get("bits", setting["bits"])
    for name, value in checkpoints.weights(WIDE).items():
        weight = mx.array(value).astype(kind)
        if weight.ndim == 1:
            assert mx.array_equal(written[name], weight).item()
            continue
        parts = mx.quantize(weight, **setting)
        stem = name.removesuffix("weight")
        for part, expected in zip(("weight", "scales", "biases"), parts, strict=False):
            assert mx.array_equal(written[stem + part], expected).item(), stem + part


@pytest.mark.parametrize("how", [{"bits": 3, "group_size": 32}, {"bits": 8}, {"mode": "nvfp4"}], ids=str)
def test_quantized_models_run_as_their_expanded_twins(wide: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    """The CPU policy's expansion and MLX's own quantized products give the same logits."""
    output = convert(wide, tmp_path / "out", dtype="float32", **how).output
    ids = checkpoints.prompt(40)
    expanded, plain = (elm_mlx.load(output, cpu_policy=policy).logits(ids) for policy in ("auto", "plain"))
    assert float(mx.abs(expanded - plain).max()) <= 2e-4 * float(mx.abs(plain).max())


@pytest.mark.parametrize("how", [*COMBINATIONS, {}], ids=str)
def test_bits_per_weight_and_info_are_those_of_the_files(wide: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    done = convert(wide, tmp_path / "out", **how)
    stored = sum(array.nbytes for array in arrays_of(done.output).values())
    count = sum(value.size for value in checkpoints.weights(WIDE).values())
    info = elm_mlx.info(done.output)
    assert (done.bytes, done.parameters, done.bits_per_weight) == (stored, count, 8 * stored / count)
    assert (info.weight_bytes, info.parameters, info.bits_per_weight) == (stored, count, 8 * stored / count)
    assert info.dtype == "bfloat16"
    assert info.kv_bytes_per_token == 2 * sum(config_from_dict(WIDE).num_kv_heads) * 32 * 2


WAYS: list[dict[str, Any]] = [{}, {"bits": 4, "group_size": 32}, {"dtype": "float16"}, {"mode": "mxfp4"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"),
    [
        *[("openelm", how) for how in WAYS],
        *[("llama-3.1", how) for how in WAYS],
    ],
    ids=str,
)
def test_mlx_lm_agrees_on_our_output(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    """16-bit arithmetic may break ties otherwise, so: its logit of our token is within 1 % of its best one's scale."""
    from helpers.mlx_lm_alone import load_model

    source = checkpoints.write(tmp_path / "source", checkpoints.CONFIGS[name])
    output = convert(source, tmp_path / "out", **how).output
    theirs, _ = load_model(output)
    lm, ids = elm_mlx.load(output, cpu_policy="plain"), checkpoints.prompt()
    drawn = [piece.token for piece in lm.stream(ids, 12)]
    logits = theirs(mx.array([ids + drawn]))[0].astype(mx.float32)[len(ids) - 1 : -1]
    chosen = mx.take_along_axis(logits, mx.array(drawn)[:, None], axis=-1)[:, 0]
    assert float((logits.max(axis=-1) - chosen).max()) <= 0.01 * float(mx.abs(logits).max())


def test_the_written_config_leaves_nothing_to_guess(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "v5", checkpoints.CONFIGS["llama-3.2-v5"])
    written = json.loads((convert(source, tmp_path / "out").output / "config.json").read_text(encoding="utf-8"))
    assert written["rope_theta"] == 500000.0
    assert written["rope_scaling"] == checkpoints.llama3_scaling(32.0)
    assert written["rope_parameters"]["factor"] == 32.0
    assert written["torch_dtype"] == written["dtype"] == "bfloat16"
    assert written["tie_word_embeddings"] is True
    source = checkpoints.write(tmp_path / "elm", checkpoints.CONFIGS["openelm"])
    written = json.loads((convert(source, tmp_path / "elm-out").output / "config.json").read_text(encoding="utf-8"))
    assert written["num_query_heads"] == [3, 6, 6, 6]
    assert written["ffn_multipliers"] == [0.5, 1.33, 2.17, 3.0]
    assert "auto_map" not in written


def test_tensors_that_nothing_reads_are_left_out_and_named(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "s", checkpoints.CONFIGS["llama-3.2"])
    arrays = arrays_of(source)
    table = "model.layers.0.self_attn.rotary_emb.inv_freq"
    old = {"lm_head.weight": arrays["model.embed_tokens.weight"], table: mx.ones(12)}
    checkpoints.save(source, arrays | old)
    done = convert(source, tmp_path / "out")
    assert sorted(done.dropped) == sorted(old)
    assert arrays_of(done.output).keys() == arrays.keys()


def test_a_tied_head_that_differs_from_the_embedding_is_refused(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "s", checkpoints.CONFIGS["llama-3.2"])
    arrays = arrays_of(source)
    checkpoints.save(source, arrays | {"lm_head.weight": arrays["model.embed_tokens.weight"] + 1})
    with pytest.raises(BadCheckpoint, match="differs from the embedding"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize("form", [".", "..", "new/deep/out", "out/"])
def test_any_spelling_of_the_output_means_its_place(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    if form == "..":
        with pytest.raises(TargetExists, match="not empty"):
            convert(openelm, form)
    else:
        convert(openelm, form)
        assert elm_mlx.info((here / form).absolute()).family == "openelm"
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]


def test_shards_are_no_larger_than_asked_and_load_as_one(openelm: Path, tmp_path: Path) -> None:
    done = convert(openelm, tmp_path / "out", dtype="float32", max_shard_size=0.0002)
    files = sorted(done.output.glob("model-*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    largest = max(array.nbytes for array in arrays_of(openelm).values())
    assert all(file.stat().st_size <= max(200_000, largest) + 10_000 for file in files)
    index = json.loads((done.output / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == done.bytes
    ids = checkpoints.prompt(20)
    assert mx.array_equal(elm_mlx.load(done.output).logits(ids), elm_mlx.load(openelm).logits(ids)).item()


def test_two_conversions_give_the_same_bytes(openelm: Path, tmp_path: Path) -> None:
    for target, seed in (("a", "1"), ("b", "2")):
        script = f"from elm_mlx.convert import convert; convert({str(openelm)!r}, {str(tmp_path / target)!r}, bits=4)"
        subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    files = {target: {f.name: f.read_bytes() for f in (tmp_path / target).iterdir()} for target in "ab"}
    assert files["a"] == files["b"]


def test_the_default_output_lies_beside_the_source(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "OpenELM-270M", checkpoints.CONFIGS["openelm"])
    assert convert(source).output == tmp_path / "OpenELM-270M-mlx-bf16"
    assert convert(source, bits=4).output == tmp_path / "OpenELM-270M-mlx-4bit"
    assert convert(source / "model.safetensors", mode="mxfp4").output == tmp_path / "OpenELM-270M-mlx-mxfp4"


def test_the_default_output_of_a_link_lies_beside_the_link(openelm: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(openelm)
    assert convert(tmp_path / "mine").output == tmp_path / "mine-mlx-bf16"


def test_the_default_output_of_a_snapshot_is_not_in_the_hubs_cache(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the hub would take it for a revision, and remove it as one."""
    snapshot = tmp_path / "models--apple--OpenELM-270M" / "snapshots" / ("c" * 40)
    shutil.copytree(openelm, snapshot)
    monkeypatch.chdir(tmp_path)
    assert convert(snapshot).output == tmp_path / "OpenELM-270M-mlx-bf16"
    assert list(snapshot.parent.iterdir()) == [snapshot]


def test_an_output_that_is_there_is_replaced_only_with_force(openelm: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    convert(openelm, target)  # empty is free
    (target / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(TargetExists, match="force=True"):
        convert(openelm, target)
    assert (target / "mine.txt").read_text(encoding="utf-8") == "keep"
    convert(openelm, target, bits=4, force=True)
    assert not (target / "mine.txt").exists()
    assert elm_mlx.info(target).quantization is not None
    assert leftovers(target) == ["out"]


def test_force_never_replaces_what_is_no_model(openelm: Path, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "thesis.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(TargetExists, match="holds no model"):
        convert(openelm, tmp_path / "documents", force=True)
    assert (tmp_path / "documents" / "thesis.txt").exists()
    mine = shutil.copytree(openelm, tmp_path / "mine")  # a model, and the tokenizer to be used lies in it
    with pytest.raises(TargetExists, match="source"):
        convert(openelm, mine, tokenizer=mine / "tokenizer.json", force=True)


def test_a_mount_point_is_refused_before_any_work(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mnt").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "mnt")
    with pytest.raises(TargetExists, match="mount point"):
        convert(openelm, tmp_path / "mnt", progress=lambda *at: pytest.fail("work was done"))


def test_what_appears_at_the_target_meanwhile_is_kept(openelm: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"

    def another(done: int, total: int) -> None:
        target.mkdir(exist_ok=True)
        (target / "config.json").write_text("another's", encoding="utf-8")

    with pytest.raises(TargetExists):
        convert(openelm, target, progress=another)
    assert (target / "config.json").read_text(encoding="utf-8") == "another's"


def test_the_output_has_the_users_usual_permissions(openelm: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        output = convert(openelm, tmp_path / "out").output
    finally:
        os.umask(before)
    assert output.stat().st_mode & 0o777 == 0o750
    assert (output / "model.safetensors").stat().st_mode & 0o777 == 0o640


def test_the_source_is_never_written_over(openelm: Path, tmp_path: Path) -> None:
    source = shutil.copytree(openelm, tmp_path / "models" / "openelm")
    for target in (source, source.parent):
        with pytest.raises(TargetExists, match="source"):
            convert(source, target, force=True)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(TargetExists, match="a file"):
        convert(source, tmp_path / "file", force=True)
    assert elm_mlx.load(source).generate("a", 1).tokens


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_nothing(openelm: Path, tmp_path: Path, error: type[BaseException]) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise error

    target = tmp_path / "out"
    with pytest.raises(error):
        convert(openelm, target, progress=stop)
    assert leftovers(target) == []
    convert(openelm, target)
    before = (target / "model.safetensors").read_bytes()
    with pytest.raises(error):
        convert(openelm, target, bits=4, force=True, progress=stop)
    assert (target / "model.safetensors").read_bytes() == before
    assert leftovers(target) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_between_the_renames_puts_the_earlier_output_back(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    target = convert(openelm, tmp_path / "out").output
    before = (target / "model.safetensors").read_bytes()
    right = Path.rename

    def stop(self: Path, to: Path) -> Path:
        if self.name == ".out.partial" and to == target:
            raise error
        return right(self, to)

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises((error, elm_mlx.ElmError)):
        convert(openelm, target, bits=4, force=True)
    assert (target / "model.safetensors").read_bytes() == before
    assert leftovers(target) == ["out"]


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: weights.Writer, name: str, array: mx.array) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights.Writer, "write", full)
    with pytest.raises(DiskFull, match="the disk is full"):
        convert(openelm, tmp_path / "out")
    assert leftovers(tmp_path / "out") == []


def test_too_little_space_is_refused_before_the_first_tensor(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))  # type: ignore[attr-defined]
    expected = r"needs 354 kB of disk, and 64 MB have to stay free: .* has 1\.0 kB free, 64 MB too little"
    with pytest.raises(DiskFull, match=expected):
        convert(openelm, tmp_path / "out")
    assert leftovers(tmp_path / "out") == []


def test_missing_and_unmatched_tensors_are_both_named(openelm: Path, tmp_path: Path) -> None:
    source = shutil.copytree(openelm, tmp_path / "s")
    arrays = arrays_of(source)
    arrays["transformer.extra.weight"] = arrays.pop("transformer.norm.weight")
    checkpoints.save(source, arrays)
    with pytest.raises(BadCheckpoint, match=r"missing transformer\.norm\.weight; not expected transformer\.extra"):
        convert(source, tmp_path / "out")
    assert leftovers(tmp_path / "out") == ["s"]


@pytest.mark.parametrize("value", [mx.ones(63), mx.ones((64, 1)), mx.ones(64, dtype=mx.int32)])
def test_a_tensor_of_the_wrong_shape_or_type_is_named(openelm: Path, tmp_path: Path, value: mx.array) -> None:
    source = shutil.copytree(openelm, tmp_path / "s")
    checkpoints.save(source, arrays_of(source) | {"transformer.norm.weight": value})
    with pytest.raises(BadCheckpoint, match=r"transformer\.norm\.weight has (shape|type)"):
        convert(source, tmp_path / "out")


def test_values_beyond_float16_are_refused_not_lost(openelm: Path, tmp_path: Path) -> None:
    source = shutil.copytree(openelm, tmp_path / "s")
    large = mx.full((64,), 70_000.0)
    checkpoints.save(source, arrays_of(source) | {"transformer.norm.weight": large})
    with pytest.raises(BadCheckpoint, match="above 65504"):
        convert(source, tmp_path / "out", dtype="float16")
    kept = arrays_of(convert(source, tmp_path / "out").output)["transformer.norm.weight"]
    assert mx.all(mx.isfinite(kept)).item()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"mode": "mxfp4", "bits": 4}, "fixes its bits"),
        ({"mode": "nvfp4", "group_size": 32}, "fixes its bits"),
        ({"group_size": 64}, "group_size means nothing without bits"),
        ({"dtype": "int8"}, "dtype"),
        ({"bits": 7}, "bits is 7; it must be one of 2, 3, 4"),
        ({"bits": "4"}, "bits is '4'"),
        ({"bits": 4, "group_size": 16}, "group_size is 16"),
        ({"mode": "q4_k"}, "mode is 'q4_k'.*affine"),
        ({"max_shard_size": 0}, "max_shard_size"),
        ({"max_shard_size": 1e300}, "max_shard_size"),
        ({"max_shard_size": "5"}, "max_shard_size"),
        ({"dtype": []}, "dtype"),
        ({"max_shard_size": float("inf")}, "max_shard_size"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(
    openelm: Path, tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        convert(openelm, tmp_path / "out", **options)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "readme.txt").write_bytes(b"")
    with pytest.raises(NotFound, match="no weights"):
        convert(tmp_path / "s")
    with pytest.raises(NotFound, match="There is no"):
        convert(tmp_path / "nowhere")
