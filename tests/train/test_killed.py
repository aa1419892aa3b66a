"""A training that was killed with no chance to tidy up goes on to the same adapter."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from helpers.command_line import PATIENCE_S, PROGRAM, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a training that nobody stopped."""
    place = tmp_path_factory.mktemp("killed")
    rows = [json.dumps({"text": f"Once there was a fox who had {number} hens."}) + "\n" for number in range(40)]
    (place / "train.jsonl").write_text("".join(rows), encoding="utf-8")
    (place / "valid.jsonl").write_text(rows[0], encoding="utf-8")
    assert run(*asked(place, "whole")).code == 0
    return place


def asked(folder: Path, output: str) -> list[object]:
    return ["train", "--data", folder, "--output", folder / output, "--layers", 1, "--rank", 2, "--steps", 30,
            "--save-every", 5, "--evaluate-every", 3, "-b", 2, "--quiet"]  # fmt: skip


@pytest.mark.parametrize("lines", [0, 3, 8, 24])
def test_kill_9_loses_at_most_one_checkpoint(folder: Path, lines: int) -> None:
    """Also before the first step, and before the first checkpoint that holds one."""
    output = folder / f"killed at {lines}"
    process = subprocess.Popen([*PROGRAM, *map(str, asked(folder, output.name))])
    try:
        until = time.monotonic() + PATIENCE_S
        while told(output) < lines and time.monotonic() < until:
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert told(output) >= lines
    again = run(*asked(folder, output.name), "--resume")
    assert again.code == 0, again.err
    for name in ("adapters.safetensors", "losses.jsonl", "losses.svg", "checkpoint.safetensors"):
        assert (output / name).read_bytes() == (folder / "whole" / name).read_bytes(), name


def told(output: Path) -> int:
    """How many losses a training has written; -1 before it has begun."""
    path = output / "losses.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else -1
