"""A conversion that is killed, that meets another, or whose disk is full: earlier outputs stay, done work counts."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers.killed_runs import Driver, content, names

import elm_mlx
from elm_mlx import convert as conversion
from elm_mlx.convert import convert
from elm_mlx.convert.output import pipeline
from elm_mlx.convert.output import target as staging
from elm_mlx.convert.tokenizer import TokenizerFiles
from elm_mlx.errors import DiskFull, TargetExists
from elm_mlx.library.local import Candidate, Checkpoint
from elm_mlx.library.names import Repository
from elm_mlx.library.pull import Callbacks, convert_checkpoint
from elm_mlx.store.snapshot import Snapshot

HANGS = 600  # seconds, on the busiest machine
OPTIONS: dict[str, Any] = {"bits": 4, "group_size": 32, "max_shard_size": 0.00005}
MODULES = ("", ".output.target", ".output.journal", ".output.pipeline", ".output.provenance", ".tokenizer")
drive = Driver(OPTIONS | {"force": True}, MODULES).run


def finished(target: Path) -> int:
    """Weights that a killed run's journal lists."""
    journal = target.with_name(f".{target.name}.journal")
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the weights that are read and converted, as they are."""
    read: list[str] = []
    right = pipeline.convert_rows
    monkeypatch.setattr(pipeline, "convert_rows", lambda name, *rest: read.append(name) or right(name, *rest))
    return read


@pytest.fixture(scope="module")
def lines(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The functions of the lines that a run over an earlier output comes by."""
    target = tmp_path_factory.mktemp("lines") / "out"
    convert(openelm, target, bits=8)
    return drive(openelm, target)


@pytest.fixture(scope="module")
def earlier(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(openelm, tmp_path_factory.mktemp("earlier") / "out", bits=8).output


@pytest.fixture(scope="module")
def whole(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run gives: several files."""
    output = convert(openelm, tmp_path_factory.mktemp("whole") / "out", **OPTIONS).output
    assert len([*output.glob("*.safetensors")]) > 3
    return output


def kill_amid_the_weights(source: Path, target: Path, lines: list[str]) -> None:
    drive(source, target, len(lines) - lines[::-1].index("Journal.add") - 100)
    assert 3 < finished(target) < len(mx.load(str(source / "model.safetensors")))


@pytest.fixture(scope="module")
def half_done(openelm: Path, tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> Path:
    """What a run to `out` that was killed amid its weights leaves in a folder; a test copies it first."""
    folder = tmp_path_factory.mktemp("half-done")
    kill_amid_the_weights(openelm, folder / "out", lines)
    return folder


def kill_points(lines: list[str], count: int) -> list[int]:
    """Moments spread evenly over a run, and every line about the renames."""
    spread = range(1, len(lines), len(lines) // count)
    renames = [at for at, name in enumerate(lines, start=1) if name == "put_in_place"]
    assert len(renames) > 3
    return sorted({*spread, *renames})


@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_run_is_gone_on_with_and_gives_the_same_bytes(
    openelm: Path, tmp_path: Path, lines: list[str], earlier: Path, whole: Path, converted: list[str], count: int
) -> None:
    before, after = content(earlier), content(whole)
    weights = len(mx.load(str(openelm / "model.safetensors")))
    seen = set()
    for point in kill_points(lines, count):
        target = tmp_path / str(point) / "out"
        shutil.copytree(earlier, target)
        drive(openelm, target, point)
        partial, aside = target.with_name(".out.partial"), target.with_name(".out.replaced")
        found = content(target if target.exists() else aside)
        assert found == before or (found == after and not partial.exists())
        due = weights - finished(target) * partial.exists()
        seen.add((due, target.exists()))
        converted.clear()
        assert content(convert(openelm, target, force=True, **OPTIONS).output) == after, point
        assert len(converted) == due, point
        assert names(target.parent) == ["out"]
    assert len({due for due, _ in seen}) >= 3  # before, amid and after the weights
    assert {there for _, there in seen} == {True, False}  # between the renames too


def test_what_a_kill_tore_or_another_changed_is_done_anew(
    openelm: Path, tmp_path: Path, half_done: Path, whole: Path, converted: list[str]
) -> None:
    weights = len(mx.load(str(openelm / "model.safetensors")))
    for case in ("torn", "cut", "damaged", "lost"):
        folder = shutil.copytree(half_done, tmp_path / case)
        target, partial, journal = (folder / name for name in ("out", ".out.partial", ".out.journal"))
        count = finished(target)
        files = sorted(partial.glob("*.safetensors"))
        if case == "torn":
            for file in (journal, files[-1]):
                file.write_bytes(file.read_bytes() + bytes(100_000))
        elif case == "cut":
            journal.write_bytes(journal.read_bytes()[:-1])
        elif case == "damaged":
            data = bytearray(files[0].read_bytes())
            data[-1] ^= 1
            files[0].write_bytes(data)
        else:
            files[0].unlink()
        converted.clear()
        assert content(convert(openelm, target, force=True, **OPTIONS).output) == content(whole)
        again = len(converted) - (weights - count)
        assert again == {"torn": 0, "cut": 1}.get(case, again)
        assert again > 1 or case in ("torn", "cut")


def test_other_options_and_another_source_begin_anew(
    openelm: Path, tmp_path: Path, lines: list[str], half_done: Path, whole: Path, converted: list[str]
) -> None:
    source, target = shutil.copytree(openelm, tmp_path / "openelm"), tmp_path / "out"
    begun = shutil.copytree(half_done, tmp_path / "begun") / "out"
    weights = len(mx.load(str(source / "model.safetensors")))
    other = convert(source, tmp_path / "other", dtype="float16", **OPTIONS).output  # of the same sizes
    converted.clear()
    assert content(convert(openelm, begun, dtype="float16", **OPTIONS).output) == content(other)
    kill_amid_the_weights(source, target, lines)
    os.utime(source / "model.safetensors")
    assert content(convert(source, target, force=True, **OPTIONS).output) == content(whole)
    assert len(converted) == 2 * weights


def test_the_earlier_output_comes_back_to_whoever_does_not_go_on(
    openelm: Path, tmp_path: Path, lines: list[str], earlier: Path
) -> None:
    target = shutil.copytree(earlier, tmp_path / "out")
    drive(openelm, target, len(lines) - lines[::-1].index("put_in_place") - 1)
    assert not target.exists()
    with pytest.raises(TargetExists, match="force=True"):
        convert(openelm, target)
    assert content(target) == content(earlier)
    assert names(tmp_path) == ["out"]


def test_two_runs_to_one_target_exclude_each_other(
    openelm: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, refusals, right = tmp_path / "out", list[str](), pipeline.convert_rows
    script = "import sys; from elm_mlx.convert import convert; convert(*sys.argv[1:], force=True)"
    run = [sys.executable, "-c", script, str(openelm), str(target)]

    def beside_another(*weight: Any) -> Any:
        if not refusals:  # amid this run
            refusals.append(subprocess.run(run, capture_output=True, text=True, check=False).stderr)
        return right(*weight)

    monkeypatch.setattr(pipeline, "convert_rows", beside_another)
    convert(openelm, target, **OPTIONS)
    assert "TargetExists: Another run is writing" in refusals[0]
    assert content(target) == content(whole)
    assert names(tmp_path) == ["out"]


def test_a_second_pull_waits_for_the_conversion_of_the_first(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELM_MLX_CACHE", str(tmp_path))
    shutil.copytree(openelm, tmp_path / "snapshots" / "commit")
    candidate = Candidate(Repository("apple/OpenELM-270M"), None)
    checkpoint = Checkpoint(candidate.repository, Snapshot(tmp_path, "apple/OpenELM-270M", "commit"), None)
    begun, refused, right = threading.Event(), threading.Event(), staging.wait_for_other_run

    def hold(done: int, total: int) -> None:
        begun.set()
        assert refused.wait(HANGS)

    monkeypatch.setattr(conversion, "wait_for_other_run", lambda place: (refused.set(), right(place)))
    with ThreadPoolExecutor(1) as thread:
        callbacks = Callbacks(converting=hold)
        first = thread.submit(convert_checkpoint, candidate, checkpoint, callbacks, again=False)
        assert begun.wait(HANGS)
        assert convert_checkpoint(candidate, checkpoint, Callbacks(), again=False) == first.result()


def test_links_beside_the_target_are_not_followed(openelm: Path, tmp_path: Path) -> None:
    """In a folder that others write to they may lead to files of ours."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep", encoding="utf-8")
    (tmp_path / ".a.partial").symlink_to(tmp_path / "mine")
    convert(openelm, tmp_path / "a")
    (tmp_path / ".b.journal").symlink_to(tmp_path / "mine" / "thesis.txt")
    with pytest.raises(elm_mlx.ElmError, match="Writing"):
        convert(openelm, tmp_path / "b")
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "keep"


@pytest.mark.parametrize("limit", [5_000, 30_000], ids=["in the tokenizer", "in the weights"])
def test_a_full_disk_leaves_the_earlier_output(openelm: Path, earlier: Path, tmp_path: Path, limit: int) -> None:
    """The real thing: the system refuses the bytes."""
    assert (openelm / "tokenizer.json").stat().st_size > 5_000
    target = shutil.copytree(earlier, tmp_path / "out")
    script = (
        "import resource, signal, sys; sys.dont_write_bytecode = True;"  # a cut one would stay and fail others
        f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN); limit = {limit};"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit));"
        "from elm_mlx.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "convert", str(openelm), "--output", str(target), "--force"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (74, False), done.stderr
    assert "the disk is full" in done.stderr
    assert content(target) == content(earlier)
    assert names(tmp_path) == ["out"]


def test_a_disk_that_fills_with_the_tokenizer_leaves_nothing(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: TokenizerFiles, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TokenizerFiles, "write", full)
    with pytest.raises(DiskFull, match="the disk is full"):
        convert(openelm, tmp_path / "out")
    assert names(tmp_path) == []


def test_an_earlier_output_that_cannot_be_removed_is_named(
    openelm: Path, earlier: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, aside = Path(shutil.copytree(earlier, tmp_path / "out")), tmp_path / ".out.replaced"
    right = shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **how: None if path == aside else right(path, **how))
        for _ in range(2):  # the next run says so before it begins
            with pytest.raises(elm_mlx.ElmError, match=r"out is whole, but .*\.out\.replaced.* cannot be removed"):
                convert(openelm, target, force=True, **OPTIONS)
            assert content(target) == content(whole)
            assert names(tmp_path) == [".out.replaced", "out"]
    convert(openelm, target, force=True, **OPTIONS)
    assert names(tmp_path) == ["out"]


def test_the_disk_has_all_files_before_their_folder_gets_its_name(
    openelm: Path, earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Path(shutil.copytree(earlier, tmp_path / "out"))
    done: list[int] = []
    due: dict[str, list[Path]] = {}
    sync, rename, remove = os.fsync, Path.rename, shutil.rmtree

    def wanted(step: str, *paths: Path) -> None:
        due[step] = [path for path in paths if path.stat().st_ino not in done]

    def renamed(self: Path, to: Path) -> Path:
        if to == target:
            wanted("rename", *self.iterdir(), self)
        return rename(self, to)

    def removed(path: Path, **how: bool) -> None:
        if path.name == ".out.replaced":
            wanted("remove", path.parent)
        remove(path, **how)

    monkeypatch.setattr(os, "fsync", lambda file: (done.append(os.fstat(file).st_ino), sync(file)))
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(shutil, "rmtree", removed)
    convert(openelm, target, force=True, **OPTIONS)
    assert due == {"rename": [], "remove": []}
