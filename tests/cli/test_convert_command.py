"""`elm-mlx convert`: where it writes, what it says, and what it refuses to replace."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.command_line import answer, run

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.convert import verify as verification
from elm_mlx.files import SPARE_BYTES


@pytest.mark.follows("elm-mlx generate --model * --prompt 'Once upon a time'")
def test_convert_writes_beside_the_source_and_says_so(damaged: Path) -> None:
    done = run("convert", damaged, "--bits", 8, "--group-size", 32)
    target = damaged.parent / "model-mlx-8bit"
    assert (done.code, done.out) == (0, "")
    tried = re.search(r"Try it: elm-mlx (.*)", done.err)
    assert tried
    assert run(*shlex.split(tried[1]), "--max-tokens", 1).code == 0
    assert str(target) in shlex.split(tried[1])


@pytest.mark.parametrize("template", ["{% if %}", "{{ nothing.at.all }}", "{{ raise_exception('no') }}"])
def test_a_chat_template_that_cannot_be_used_is_told_and_not_tried(damaged: Path, template: str) -> None:
    settings = json.loads((damaged / "tokenizer_config.json").read_text(encoding="utf-8"))
    (damaged / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}), encoding="utf-8")
    done = run("convert", damaged, "--output", damaged.parent / "out")
    assert (done.code, done.out) == (0, "")
    assert "cannot chat" in done.err
    refused = run("generate", "--model", damaged.parent / "out", "--prompt", "Hi", "--max-tokens", 1)
    why = (
        refused.err.splitlines()[-1]
        .removeprefix("elm-mlx: ")
        .removesuffix(" Give one by --chat-template, or complete plain text, as `elm-mlx generate --raw` does.")
    )
    assert f"cannot chat: {why}\n" in done.err
    tried = re.search(r"Try it: elm-mlx (.*)", done.err)
    assert tried
    assert run(*shlex.split(tried[1]), "--max-tokens", 1).code == 0


def test_convert_prints_its_summary_as_json(openelm: Path, tmp_path: Path) -> None:
    command = ["convert", openelm, "--output", tmp_path / "out", "--mode", "mxfp4", "--json"]
    summary = answer(run(*command))
    keys = ["output", "family", "layout", "parameters", "bytes", "bits_per_weight", "dropped", "report",
            "chat_refusal", "calibration", "kept"]  # fmt: skip
    assert list(summary) == keys
    assert summary["output"] == str(tmp_path / "out")
    assert summary["parameters"] == sum(array.size for array in checkpoints.weights(checkpoints.OPENELM).values())


def test_a_dry_run_tells_everything_and_writes_nothing(openelm: Path, tmp_path: Path) -> None:
    command = ["convert", openelm, "--output", tmp_path / "out", "--bits", 4, "--dry-run"]
    told = run(*command)
    assert (told.code, told.err, list(tmp_path.iterdir())) == (0, "", [])
    planned = answer(run(*command, "--json"))
    assert set(planned["tensors"]) == set(checkpoints.weights(checkpoints.OPENELM))
    done = answer(run(*command[:-1], "--json"))
    assert {key: planned[key] for key in ("bytes", "bits_per_weight", "parameters", "output")} == {
        key: done[key] for key in ("bytes", "bits_per_weight", "parameters", "output")
    }
    header = 8 + int.from_bytes((tmp_path / "out" / "model.safetensors").read_bytes()[:8], "little")
    assert planned["files"] == {"model.safetensors": (tmp_path / "out" / "model.safetensors").stat().st_size - header}
    assert "affine 4-bit in groups of 64" in told.out


def test_a_checkpoint_moves_no_cursor(damaged: Path, tmp_path: Path) -> None:
    arrays = mx.load(str(damaged / "model.safetensors"))
    checkpoints.save(damaged, arrays | {"\x1b[2J.rotary_emb.inv_freq": mx.ones(1)})  # type: ignore[operator]
    told = run("convert", damaged, "--output", tmp_path / "out", "--dry-run")
    assert "\ufffd[2J.rotary_emb.inv_freq" in told.out
    assert "\x1b" not in told.out


def test_a_path_breaks_no_row_of_a_table(damaged: Path) -> None:
    odd = damaged.rename(damaged.with_name("a\nb\x1b[2J"))
    for command in (["info", odd], ["convert", odd, "--bits", 4, "--dry-run"], ["verify", odd, "--against", odd]):
        rows = run(*command, *(["--tokens", 2] if command[0] == "verify" else [])).out.splitlines()
        assert rows
        assert all(row.isprintable() and row[:1].isalpha() for row in rows)


def test_a_dry_run_ends_as_the_real_one_would(openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a" / "out"
    command = ["convert", openelm, "--output", target, "--dry-run"]
    assert run(*command).code == 0
    assert list(tmp_path.iterdir()) == []
    convert(openelm, target)
    assert (run(*command).code, run(*command, "--force").code) == (73, 0)
    (target / "config.json").rename(target / "thesis.txt")
    assert run(*command, "--force").code == 73
    shutil.rmtree(target)
    free = answer(run(*command, "--json"))["bytes"] + SPARE_BYTES - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))  # type: ignore[attr-defined]
    full = run(*command)
    assert (full.code, "stored as" in full.out) == (74, True)
    assert list(target.parent.iterdir()) == []
    (target.with_name(".out.partial")).mkdir()
    (target.with_name(".out.partial") / "model.safetensors").write_bytes(b"1")
    assert run(*command).code == 0  # what a killed run left is gone on with, or removed


def test_convert_verify_keeps_what_passes_and_says_so_in_its_card(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = tmp_path / "stories.txt"
    stories.write_text(verification.held_out().read_text(encoding="utf-8")[:300], encoding="utf-8")
    monkeypatch.setattr(verification, "held_out", lambda: stories)
    done = answer(run("convert", openelm, "--output", tmp_path / "out", "--bits", 8, "--verify", "--json"))
    assert 0 < done["report"]["kl_divergence"] < done["report"]["bound"]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"{done['report']['kl_divergence']:.3g}" in card
    monkeypatch.setitem(verification.MAX_KL, "4-bit", 0.0)
    failed = run("convert", openelm, "--output", tmp_path / "bad", "--bits", 4, "--verify")
    assert (failed.code, failed.out) == (72, "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "stories.txt"]
    assert run("convert", openelm, "--output", tmp_path / "plain").code == 0
    assert "Not measured" in (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")


@pytest.mark.follows("elm-mlx convert")
def test_weights_that_are_no_numbers_are_refused_by_name_and_converted_when_that_is_asked_for(
    openelm: Path, tmp_path: Path
) -> None:
    source, name = Path(shutil.copytree(openelm, tmp_path / "source")), "transformer.norm.weight"
    arrays = mx.load(str(source / "model.safetensors"))
    assert isinstance(arrays, dict)
    arrays[name][3] = float("nan")
    checkpoints.save(source, arrays)
    refused = run("convert", source, "--output", tmp_path / "out")
    assert (refused.code, refused.out) == (65, "")
    assert refused.err == (f"elm-mlx: {name} of the source holds NaN: its file is damaged, or it was saved so. Fetch "
                           "it again; `elm-mlx convert` takes it all the same with --allow-nonfinite.\n")  # fmt: skip
    assert run("convert", source, "--output", tmp_path / "out", "--allow-nonfinite").code == 0


def test_convert_replaces_nothing_unless_forced(openelm: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis.txt").write_text("irreplaceable", encoding="utf-8")
    done = run("convert", openelm, "--output", target)
    assert (done.code, done.out) == (73, "")
    assert "--force" in done.err
    assert [(path.name, path.read_text(encoding="utf-8")) for path in target.iterdir()] == [
        ("thesis.txt", "irreplaceable")
    ]
    assert run("convert", openelm, "--output", target, "--force").code == 73  # no model: not ours to delete
    assert (target / "thesis.txt").exists()
    (target / "thesis.txt").rename(target / "config.json")
    assert run("convert", openelm, "--output", target, "--force").code == 0
    assert elm_mlx.info(target).family == "openelm"
    assert list(tmp_path.iterdir()) == [target]
