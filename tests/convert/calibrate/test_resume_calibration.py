"""A calibration that is stopped, in whatever way, goes on after its last whole stage and gives the same bytes."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints
from helpers.killed_runs import Driver, content, names
from helpers.rounding_stages import RoundingStages

import elm_mlx
from elm_mlx.convert import convert, discard, plan
from elm_mlx.convert.calibrate import saved, stages
from elm_mlx.convert.calibrate.saved import SavedStages
from elm_mlx.convert.verify import held_out
from elm_mlx.errors import DiskFull, TargetExists
from elm_mlx.store import weights

OPTIONS: dict[str, Any] = {"bits": 4, "group_size": 32, "calibrate": str(held_out()), "calibrate_tokens": 1024}
STAGES = 5  # of the tiny OpenELM: four layers and the embedding
KILLS = 50
SLOW = pytest.mark.slow
MODULES = (".calibrate.work", ".calibrate.saved", ".output.target", ".output.journal", ".output.pipeline")
ROUNDING = f"""
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from helpers.rounding_stages import RoundingStages
from elm_mlx.convert.calibrate import stages
stages.Calibration = RoundingStages
"""
drive = Driver(OPTIONS, MODULES, ROUNDING).run


@pytest.fixture(autouse=True)
def arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "Calibration", RoundingStages)
    monkeypatch.setattr(RoundingStages, "begun", 0)


def kept(target: Path) -> int:
    """Stages that lie beside the target, whole by their journal: their parts, and the states after them."""
    folder = target.with_name(f".{target.name}.calibration")
    journal = folder / "journal"
    lines = journal.read_text(encoding="ascii").splitlines() if journal.exists() else []
    kinds = Counter(line.partition(" ")[2].partition("-")[0] for line in lines[1:])
    return kinds["parts"] if kinds["parts"] == STAGES else min(kinds["parts"], kinds["states"])


@pytest.fixture(scope="module")
def lines(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return drive(openelm, tmp_path_factory.mktemp("lines") / "out")


@pytest.fixture(scope="module")
def whole(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run gives."""
    target = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "Calibration", RoundingStages)
        convert(openelm, target, **OPTIONS)
    assert names(target.parent) == ["out"]
    return content(target)


@pytest.fixture(scope="module")
def stopped(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run to `out` leaves in a folder that was interrupted after three stages; a test copies it first."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "Calibration", stopping_after(3, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            convert(openelm, folder / "out", **OPTIONS)
    return folder


def stopping_after(count: int, error: BaseException) -> type[RoundingStages]:
    """Stages of which the one after `count` ends in an error."""

    class Stopping(RoundingStages):
        def run(self, stage: int, *rest: Any) -> Any:
            if stage == count:
                raise error
            return super().run(stage, *rest)

    return Stopping


@pytest.mark.slow
def test_a_killed_calibration_goes_on_and_gives_the_same_bytes(
    openelm: Path, tmp_path: Path, lines: list[str], whole: dict[str, bytes]
) -> None:
    first = lines.index("saved_stages")  # where the calibration begins
    points = range(first + 1, len(lines), (len(lines) - first) // KILLS)
    seen = set()
    for point in points:
        target = tmp_path / str(point) / "out"
        drive(openelm, target, point)
        seen.add(before := kept(target))
        there, RoundingStages.begun = target.exists(), 0
        assert content(convert(openelm, target, force=True, **OPTIONS).output) == whole, point
        assert there or RoundingStages.begun == STAGES - before, point
        assert names(target.parent) == ["out"]
    assert len(seen) == STAGES + 1


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        *(pytest.param(e, marks=SLOW) for e in (SystemExit(143), MemoryError(), elm_mlx.ElmError("no"))),
    ],
)
def test_whatever_ends_a_run_the_stages_that_are_done_stay(
    openelm: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """An interrupt of a run of minutes throws away no minutes; all else that lay beside the target goes as ever."""
    target = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(stages, "Calibration", stopping_after(3, error))
        with pytest.raises(type(error)):
            convert(openelm, target, **OPTIONS)
    assert names(tmp_path) == [".out.calibration"]
    assert names(tmp_path / ".out.calibration") == ["journal", "parts-0000", "parts-0001", "parts-0002", "states-0002"]
    assert plan(openelm, target, **OPTIONS).describe()["calibration"]["done"] == 3
    assert RoundingStages.begun == 0
    assert content(convert(openelm, target, **OPTIONS).output) == whole
    assert RoundingStages.begun == STAGES - 3
    assert names(tmp_path) == ["out"]


def test_a_run_that_ends_before_its_first_stage_leaves_nothing(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "Calibration", stopping_after(0, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        convert(openelm, tmp_path / "out", **OPTIONS)
    assert names(tmp_path) == []


def test_a_run_that_ends_before_its_first_states_are_kept_leaves_nothing(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SavedStages._write

    def interrupted(self: SavedStages, name: str, arrays: Any) -> None:
        if name == "states-0000":
            raise KeyboardInterrupt
        right(self, name, arrays)

    monkeypatch.setattr(SavedStages, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(openelm, tmp_path / "out", **OPTIONS)
    assert names(tmp_path) == []


def test_older_states_go_once_the_journal_of_the_newer_ones_is_on_the_disk(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could take the journal's last lines, and the states before them were gone."""
    done = list[str]()
    for name in ("sync", "remove"):
        right = getattr(saved, name)
        monkeypatch.setattr(saved, name, lambda path, right=right: [done.append(path.name), right(path)])
    convert(openelm, tmp_path / "out", **OPTIONS)
    for stage in range(STAGES - 1):
        gone = done.index(f"states-{stage:04d}")
        assert done[gone - 1] == "journal"


def test_an_interrupt_while_the_weights_are_written_costs_no_stage(
    openelm: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(openelm, tmp_path / "out", progress=stop, **OPTIONS)
    assert names(tmp_path) == [".out.calibration"]
    assert content(convert(openelm, tmp_path / "out", **OPTIONS).output) == whole
    assert RoundingStages.begun == STAGES


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("case", "redone"),
    [
        pytest.param("whole", 2, marks=SLOW),
        ("torn journal", 2),
        pytest.param("a line lost", 5, marks=SLOW),  # that of the last states: those before them are gone
        pytest.param("damaged parts", 5, marks=SLOW),
        ("damaged states", 5),
        pytest.param("parts lost", 5, marks=SLOW),
        pytest.param("states are a link", 5, marks=SLOW),
        ("another's files beside", 2),
        ("states of the stage before are still there", 3),
        pytest.param("an empty journal", 5, marks=SLOW),
        ("a journal of bytes", 5),
    ],
)
def test_what_is_damaged_or_foreign_is_done_again(
    openelm: Path, tmp_path: Path, stopped: Path, whole: dict[str, bytes], case: str, redone: int
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "copy")) / ".out.calibration"
    journal, states = folder / "journal", folder / "states-0002"
    lines = journal.read_bytes().splitlines(keepends=True)
    if case == "torn journal":
        journal.write_bytes(journal.read_bytes() + b"12345678 parts-00")
    elif case == "a line lost":
        journal.write_bytes(b"".join(lines[:-1]))
    elif case == "damaged parts":
        damage(folder / "parts-0001")
    elif case == "damaged states":
        damage(states)
    elif case == "parts lost":
        (folder / "parts-0000").unlink()
    elif case == "states are a link":
        states.symlink_to(states.rename(tmp_path / "states"))
    elif case == "another's files beside":
        (folder / "parts-0003").write_bytes(b"?")
        (folder / "states-0003.partial").symlink_to(tmp_path / "nowhere")
        (folder / "folder" / "deep").mkdir(parents=True)
    elif (
        case == "states of the stage before are still there"
    ):  # a run died before it removed them, then the disk failed
        (folder / "states-0001").write_bytes(states.read_bytes())
        crc = lines[-1].split()[0]
        lines[4] = crc + b" states-0001\n"
        journal.write_bytes(b"".join(lines))
        damage(states)
    elif case == "an empty journal":
        journal.write_bytes(b"")
    elif case == "a journal of bytes":
        journal.write_bytes(bytes(range(256)) * 10)
    done = convert(openelm, folder.parent / "out", **OPTIONS).output
    if case != "states of the stage before are still there":  # which are not really those
        assert content(done) == whole
    assert RoundingStages.begun == redone
    assert names(folder.parent) == ["out"]


@pytest.mark.parametrize(
    "other",
    [
        {"bits": 3},
        "text",
        *(pytest.param(o, marks=SLOW) for o in ({"calibrate_tokens": 512}, {"dtype": "float16"}, "source")),
    ],
)
def test_other_options_another_text_and_another_source_begin_anew(
    openelm: Path, tmp_path: Path, stopped: Path, other: dict[str, Any] | str
) -> None:
    target, source = Path(shutil.copytree(stopped, tmp_path / "copy")) / "out", openelm
    options = dict(OPTIONS)
    if other == "text":
        (tmp_path / "text").write_text(held_out().read_text(encoding="utf-8")[5000:], encoding="utf-8")
        options["calibrate"] = tmp_path / "text"
    elif other == "source":
        source = Path(shutil.copytree(openelm, tmp_path / "openelm"))
        os.utime(source / "model.safetensors")
    else:
        options |= other
    assert plan(source, target, **options).describe()["calibration"]["done"] == 0
    fresh = convert(source, tmp_path / "fresh", **options).output
    RoundingStages.begun = 0
    assert content(convert(source, target, **options).output) == content(fresh)
    assert RoundingStages.begun == STAGES


def test_a_conversion_without_calibration_removes_what_one_left(openelm: Path, tmp_path: Path, stopped: Path) -> None:
    target = Path(shutil.copytree(stopped, tmp_path / "copy")) / "out"
    convert(openelm, target, bits=4)
    assert names(target.parent) == ["out"]


def test_what_is_left_can_be_discarded(tmp_path: Path, stopped: Path) -> None:
    target = Path(shutil.copytree(stopped, tmp_path / "copy")) / "out"
    discard(target)
    assert names(target.parent) == []


def test_two_calibrations_to_one_target_exclude_each_other(
    openelm: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, begun = tmp_path / "out", list[int]()

    class BesideAnother(RoundingStages):
        def run(self, stage: int, *rest: Any) -> Any:
            begun.append(stage)
            if stage == 2:
                with pytest.raises(TargetExists, match="Another run is writing"):
                    convert(openelm, target, **OPTIONS)
            return super().run(stage, *rest)

    monkeypatch.setattr(stages, "Calibration", BesideAnother)
    convert(openelm, target, **OPTIONS)
    assert begun == list(range(STAGES))
    assert content(target) == whole


def test_links_in_place_of_the_folder_are_not_followed(openelm: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "journal").write_text("keep", encoding="utf-8")
    (tmp_path / ".a.calibration").symlink_to(tmp_path / "mine")
    (tmp_path / ".b.calibration").mkdir()
    (tmp_path / ".b.calibration" / "journal").symlink_to(tmp_path / "mine" / "journal")
    (tmp_path / ".c.calibration").write_text("a file", encoding="utf-8")
    for name in "abc":
        assert content(convert(openelm, tmp_path / name, **OPTIONS).output) == whole
    assert (tmp_path / "mine" / "journal").read_text(encoding="utf-8") == "keep"
    assert names(tmp_path) == ["a", "b", "c", "mine"]


def test_a_full_disk_is_a_sentence_and_keeps_the_stages(
    openelm: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = weights.Writer.write

    def full(self: weights.Writer, name: str, *blocks: Any) -> Any:
        if ".layers.3." in name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return right(self, name, *blocks)

    with monkeypatch.context() as patch:
        patch.setattr(weights.Writer, "write", full)
        with pytest.raises(DiskFull, match="the disk is full"):
            convert(openelm, tmp_path / "out", **OPTIONS)
    assert names(tmp_path) == [".out.calibration"]
    assert content(convert(openelm, tmp_path / "out", **OPTIONS).output) == whole


def test_room_for_the_stages_is_asked_for_before_the_first(
    openelm: Path, tmp_path: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = plan(openelm, tmp_path / "out", **OPTIONS)
    needed = job.shards.nbytes + job.describe()["calibration"]["disk"] + 64_000_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, free))  # type: ignore[attr-defined]
    free = needed
    job.refuse(force=False)
    free = needed - 1
    for run in (lambda: job.refuse(force=False), lambda: convert(openelm, tmp_path / "out", **OPTIONS)):
        with pytest.raises(DiskFull, match=r"needs .* of disk"):
            run()
    assert RoundingStages.begun == 0
    assert names(tmp_path) == []
    on = Path(shutil.copytree(stopped, tmp_path / "copy")) / "out"
    plan(openelm, on, **OPTIONS).refuse(force=False)  # what is there already needs no room


def test_what_appears_at_the_target_meanwhile_is_kept_and_so_are_the_stages(openelm: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"

    def another(done: int, total: int) -> None:
        target.mkdir(exist_ok=True)
        (target / "config.json").write_text("another's", encoding="utf-8")

    with pytest.raises(TargetExists):
        convert(openelm, target, calibrating=another, **OPTIONS)
    assert (target / "config.json").read_text(encoding="utf-8") == "another's"
    convert(openelm, target, force=True, **OPTIONS)
    assert RoundingStages.begun == STAGES


def test_a_weight_that_is_no_number_is_refused_before_the_first_stage(openelm: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(openelm, tmp_path / "source"))
    arrays = weights.read_arrays(source / "model.safetensors")
    spoiled = {name: array for name, (_, array) in arrays.items()}
    spoiled["transformer.norm.weight"] = spoiled["transformer.norm.weight"] * float("nan")
    checkpoints.save(source, spoiled)
    with pytest.raises(elm_mlx.errors.NotFinite, match=r"transformer\.norm\.weight of the source holds NaN"):
        convert(source, tmp_path / "out", **OPTIONS)
    assert (RoundingStages.begun, names(tmp_path)) == (0, ["source"])


def test_numbers_that_a_text_spoils_are_refused(openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spoiling(RoundingStages):
        def run(self, *given: Any) -> Any:
            parts, states = super().run(*given)
            return {n: a * float("nan") if n.endswith("scales") else a for n, a in parts.items()}, states

    monkeypatch.setattr(stages, "Calibration", Spoiling)
    with pytest.raises(elm_mlx.errors.NotFinite, match="gave NaN or infinity"):
        convert(openelm, tmp_path / "out", **OPTIONS)
    assert names(tmp_path) == []


@pytest.mark.slow
def test_weights_are_read_only_while_stages_are_missing(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], whole: dict[str, bytes]
) -> None:
    """A run that was killed when all weights were in their file needs no stage, wherever those are."""
    target = tmp_path / "out"
    drive(openelm, target, len(lines) - lines[::-1].index("Journal.add") + 20)
    shutil.rmtree(tmp_path / ".out.calibration")
    assert content(convert(openelm, target, **OPTIONS).output) == whole
    assert RoundingStages.begun == 0
