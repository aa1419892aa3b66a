"""The scripts of benchmarks/ and examples/: each says what it does and takes, and does nothing else when asked that."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_TORCH = ("evaluate.py", "make.py", "train_llama.py", "train_openelm.py")  # torch takes seconds to import
SCRIPTS = [
    path
    for folder in ("benchmarks", "examples/demo_model", "examples/tune_demo")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8") and path.name not in WITH_TORCH
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_explains_itself(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(str(script.parent))
    try:
        with pytest.raises(SystemExit) as done:
            runpy.run_path(str(script), run_name="__main__")
    finally:
        for name in set(sys.modules) - before:  # names like `tokenizer` are other modules' elsewhere
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(script.parent)):
                del sys.modules[name]
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {script.name}")
