"""`elm-mlx convert --calibrate`: how it is given, what the command says, and what stays when it is interrupted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import answer, run
from helpers.rounding_stages import RoundingStages

from elm_mlx.convert.calibrate import stages
from elm_mlx.convert.verify import held_out

FORM = ("--bits", 4, "--group-size", 32, "--calibrate-tokens", 1024)


@pytest.fixture(autouse=True)
def arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "Calibration", RoundingStages)


def test_it_takes_a_file_or_a_folder_or_the_text_that_is_shipped(openelm: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    shutil.copy(held_out(), tmp_path / "texts")
    for number, (text, name) in enumerate(
        [([held_out()], "held_out.txt"), ([tmp_path / "texts"], "texts"), ([], "shipped with elm-mlx")]
    ):
        target = tmp_path / str(number)
        done = answer(run("convert", openelm, "--output", target, *FORM, "--json", "--calibrate", *text))
        assert done["calibration"]["text"]["name"] == name
        assert f"calibration      calibrated on 1,024 tokens of the text {name}\n" in run("info", target).out
    assert run("convert", openelm, *FORM, "--calibrate", held_out()).code == 0
    target = openelm.with_name(f"{openelm.name}-mlx-4bit-calibrated")
    assert target.is_dir()
    shutil.rmtree(target)


def test_the_environment_may_ask_for_it_and_yields_where_it_means_nothing(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELM_MLX_CALIBRATE", "true")
    monkeypatch.setenv("ELM_MLX_CALIBRATE_TOKENS", "1024")
    command = ["convert", openelm, "--dry-run", "--json"]
    assert answer(run(*command, "--bits", 4))["calibration"]["text"]["name"] == "shipped with elm-mlx"
    plain = run(*command)
    assert (plain.code, json.loads(plain.out)["calibration"]) == (0, None)
    assert "ELM_MLX_CALIBRATE=true is ignored" in plain.err
    monkeypatch.setenv("ELM_MLX_CALIBRATE", str(tmp_path / "nowhere"))
    refused = run(*command, "--bits", 4)
    assert refused.code == 66
    assert refused.err.startswith("elm-mlx: ELM_MLX_CALIBRATE: There is no file or directory")


def test_a_source_that_was_taken_for_the_text_is_named(openelm: Path) -> None:
    refused = run("convert", "--bits", 4, "--calibrate", openelm)
    assert (refused.code, refused.out) == (2, "")
    said = " ".join(refused.err.split())
    assert f"--calibrate took {openelm} for the text to read, so SOURCE is missing. Write --calibrate after" in said
    assert "Missing argument 'SOURCE'" in run("convert", "--bits", 4, "--calibrate").err


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["--calibrate"], 2, "--calibrate means nothing for weights that are not quantized. Give --bits, --mode, --re"),
        (["--bits", 4, "--calibrate-tokens", 512], 2, "--calibrate-tokens means nothing without --calibrate"),
        (["--bits", 4, "--calibrate", "", "--force"], 2, "it is empty"),
        (["--bits", 4, "--calibrate", "nowhere"], 66, "--calibrate takes a UTF-8 text file, or a directory of such"),
        (["--bits", 4, "--calibrate", "/dev/null"], 2, "is a pipe or a device"),
        (["--bits", 4, "--calibrate-tokens", 4, "--calibrate"], 2, "4 is not in the range"),
        (["--bits", 4, "--calibrate", "--allow-nonfinite"], 2, "Leave --allow-nonfinite out, or --calibrate"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    openelm: Path, tmp_path: Path, given: list[Any], code: int, said: str
) -> None:
    refused = run("convert", openelm, "--output", tmp_path / "out", *given)
    assert (refused.code, refused.out, said in " ".join(refused.err.split())) == (code, "", True), refused.err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_of_the_calibration_and_of_what_is_done(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["convert", openelm, "--output", tmp_path / "out", *FORM, "--calibrate", held_out()]
    told = run(*command, "--dry-run")
    assert "calibration  1,024 tokens of the text held_out.txt, in 5 stages; at most" in told.out
    every = run(*command[:-4], "--calibrate-tokens", 2**20, "--calibrate", held_out(), "--dry-run")
    assert " tokens, all of the text held_out.txt" in every.out
    assert list(tmp_path.iterdir()) == []
    right = RoundingStages.run

    def interrupted(self: RoundingStages, stage: int, *rest: Any) -> Any:
        if stage == 2:
            raise KeyboardInterrupt
        return right(self, stage, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RoundingStages, "run", interrupted)
        stopped = run(*command)
    folder = tmp_path / ".out.calibration"
    assert (stopped.code, stopped.out) == (130, "")
    assert f"2 stages of the calibration are kept in {folder}: the same command goes on with them" in stopped.err
    assert "in 5 stages, of which 2 are done" in run(*command, "--dry-run").out
    assert "are done" not in run(*command, "--dtype", "float16", "--dry-run").out
    done = run(*command)
    assert done.code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupt_before_anything_is_done_says_nothing(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: RoundingStages, *_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(RoundingStages, "run", interrupted)
    stopped = run("convert", openelm, "--output", tmp_path / "out", *FORM, "--calibrate", held_out())
    assert (stopped.code, "kept" in stopped.err, list(tmp_path.iterdir())) == (130, False, [])


def test_verify_says_by_what_calibrated_weights_are_judged(openelm: Path, tmp_path: Path) -> None:
    command = ["convert", openelm, "--output", tmp_path / "out", *FORM, "--calibrate", held_out()]
    assert run(*command).code == 0
    told = run("verify", tmp_path / "out", "--against", openelm, "--tokens", 64)
    assert told.code in (0, 72)  # the stand-in makes weights larger than they are
    assert "are calibrated, each other is the source's, rounded as it is stored, bit for bit" in told.out
