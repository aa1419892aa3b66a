"""The examples run as they are written, and show what they say."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.served import serving
from helpers.small_demo import small_demo, small_demo_folder

__all__ = ["small_demo", "small_demo_folder"]  # what runs in this process finds the small demo

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {
    "adapters.py": ("without: ", "letters: thank you for the warm coat.", "Loaded: letters"),
    "asyncio_cancel.py": ("Once upon a time", "In a small village", "A whole story in 10 ms: None"),
    "batch.py": ("little fox ", "little duck ", "The first three to end:", " tokens"),
    "batch_file.py": ("Written: ",),
    "session.py": ("You: How does it begin?", "Read again: ", "Messages: 9"),
    "speculation.py": ("The same as without a draft: True", " were right", "Tokens per second, with the draft: "),
    "stream.py": ("Ended by 'length'.", "5 + 64 tokens"),
    "structured.py": ("A ", " legs, from {", "Was it good? "),
    "threads.py": ("Once upon a time ", "The old sailor ", "In a quarter of a second: "),
    "tools.py": ("weather({'city': '", "It rains in ", "Answer: "),
}
QUICK = ("asyncio_cancel.py", "stream.py", "structured.py", "tools.py")
BESIDE_A_SERVER = {"langchain_chat.py", "openai_client.py"}  # the first is run by tests/clients/check.py


def test_every_example_is_run_short_and_listed() -> None:
    programs = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}
    assert set(programs) == set(SHOWN) | BESIDE_A_SERVER
    assert [name for name, text in programs.items() if len(text.splitlines()) >= 60] == []
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    places = [path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [name for name in (*programs, *places) if f"]({name}" not in listed] == []


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_example_shows_what_it_says(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    shown = capsys.readouterr()
    assert [text for text in SHOWN[name] if text not in shown.out] == []
    assert shown.err == ""


def test_a_file_of_prompts_becomes_a_file_of_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [f"The {animal}" for animal in ("fox", "bear", "owl", "cat")]
    (tmp_path / "in.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    runpy.run_path(str(EXAMPLES / "batch_file.py"))["main"](tmp_path / "in.txt", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted((row["line"], row["prompt"]) for row in rows) == list(enumerate(prompts, 1))
    assert all(row["why"] in ("stop", "length") for row in rows)
    assert SHOWN["batch_file.py"][0] in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHOWN))
def test_an_example_runs_as_a_program(name: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("Once upon a time\n", encoding="utf-8")
    done = program(name, *(("in.txt", "out.jsonl") if name == "batch_file.py" else ()), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [text for text in SHOWN[name] if text not in done.stdout] == []


@pytest.mark.slow
def test_openai_s_package_completes_where_the_model_has_no_chat_template(tmp_path: Path) -> None:
    with serving("--model", "demo") as served:
        done = program("openai_client.py", served.url, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Models: demo\n there lived a ")


def program(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What an example does as a program in a folder, where every warning is an error."""
    command = [sys.executable, "-W", "error", EXAMPLES / name, *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        env=os.environ | {"NO_PROXY": "*"},
    )
