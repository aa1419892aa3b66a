"""A training that was killed with no chance to tidy up goes on to the same adapter."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from helpers.command_line import PATIENCE_S, PROGRAM, run

pytestmark = pytest.mark.slow


def test_kill_9_loses_at_most_one_checkpoint(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"Once there was a fox who had {number} hens."}) + "\n" for number in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(rows), encoding="utf-8")

    def asked(output: str) -> list[object]:
        return ["train", "--data", tmp_path, "--output", tmp_path / output, "--layers", 1, "--rank", 2, "--steps", 30,
                "--save-every", 5, "-b", 2, "--quiet"]  # fmt: skip

    assert run(*asked("whole")).code == 0
    process = subprocess.Popen([*PROGRAM, *map(str, asked("killed"))])
    try:
        until = time.monotonic() + PATIENCE_S
        while not (tmp_path / "killed" / "checkpoint.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert run(*asked("killed"), "--resume").code == 0
    for name in ("adapters.safetensors", "losses.jsonl", "checkpoint.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
