"""`just mac` goes through all of its steps, here against the stand-in for the hub, and says nothing of the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fake_hub import FakeHub
from helpers.machine import PROGRAM, Machine, listing

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "mac.py"


@pytest.mark.slow
def test_every_step_is_done_and_no_folder_is_told(
    machine: Machine, hub: FakeHub, apple: Path, ready: Path, tmp_path: Path
) -> None:
    for name in ("OpenELM-270M", "OpenELM-450M-Instruct"):
        hub.add(f"apple/{name}", listing(apple))
    program = tmp_path / "elm-mlx"
    program.write_text(f"#!{sys.executable}\n{PROGRAM}", encoding="utf-8")
    program.chmod(0o755)
    out = tmp_path / "mac.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--short", "--out", str(out), "--program", str(program)],
        env=machine.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text(encoding="utf-8"))
    steps = {step["name"]: step.get("result") for step in told["steps"]}
    assert told["failed"] == []
    assert steps["the demo's story"]["equal"]
    assert steps["the demo's story"]["as_elsewhere"]
    assert steps["serve and curl"]["exit_code"] == 143
    assert {f"answer of {name}" for name in ("openelm-270m", "llama-3.2-1b-instruct")} <= set(steps)
    text = out.read_text(encoding="utf-8")
    assert not [place for place in (machine.home, ROOT, Path.home()) if str(place) in text]


def test_help_computes_nothing() -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", SCRIPT, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "mlx" not in {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
