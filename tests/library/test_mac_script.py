"""`just mac` goes through all of its steps, here against the stand-in for the hub, and says nothing of the machine. It
fetches at most 3 GB."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fake_hub import FakeHub
from helpers.machine import PROGRAM, Machine, listing

from elm_mlx.library.names import READY_BITS, known_models

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "mac.py"
GB, MOST_GB = 1e9, 3
PUBLISHED_BITS = {"openelm-270m": 32, "openelm-450m-instruct": 16, "llama-3.2-1b-instruct": READY_BITS + 0.5}
TOKENIZER_GB = {"llama-3.2-1b-instruct": 0.017}


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
    assert "OpenELM-450M-Instruct at commit" in steps["pull openelm-450m-instruct"][0]
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


def test_it_fetches_at_most_3_gb_and_every_text_says_how_much() -> None:
    spec = importlib.util.spec_from_file_location("mac", SCRIPT)
    assert spec
    assert spec.loader
    mac = importlib.util.module_from_spec(spec)
    sys.modules["mac"] = mac  # where its dataclass looks
    spec.loader.exec_module(mac)
    known = known_models()
    assert set(mac.MODELS) == set(PUBLISHED_BITS)
    for name, size in mac.MODELS.items():
        weights = known[name].parameters * PUBLISHED_BITS[name] / 8 / GB
        assert size == pytest.approx(weights + TOKENIZER_GB.get(name, 0), abs=0.006)
    total = sum(mac.MODELS.values())
    assert total <= MOST_GB
    for place in ("benchmarks/mac.py", "benchmarks/README.md", "docs/index.md", "README.md", "justfile"):
        said = re.findall(r"fetch\w* (\d\.\d) GB", (ROOT / place).read_text(encoding="utf-8"))
        assert said == [f"{total:.1f}"], place
