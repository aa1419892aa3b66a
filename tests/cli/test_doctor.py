"""`doctor` and `completion`: what a newcomer asks when something seems wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import elm_mlx
from elm_mlx import cli, doctor
from elm_mlx.errors import BadCheckpoint


def elm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "elm_mlx", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def named(name: str) -> doctor.Finding:
    return next(finding for finding in doctor.examine() if finding.name == name)


def test_doctor_finds_a_working_machine_and_tells_a_program_the_same() -> None:
    told = elm("doctor")
    assert (told.returncode, told.stderr) == (0, "")
    findings = json.loads(elm("doctor", "--json").stdout)
    assert {"Python", "packages", "MLX backend", "BLAS", "memory", "caches", "hub", "self-test"} <= {
        finding["name"] for finding in findings
    }
    for finding in findings:
        assert finding["name"] in told.stdout
        assert finding["status"] in ("ok", "slow")
        assert finding["advice"] or finding["status"] == "ok"


def test_doctor_says_which_blas_is_slow_and_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(doctor, "backend_name", lambda: "CPU, some")
    monkeypatch.setattr(elm_mlx, "fast_blas", lambda: None)
    found = named("BLAS")
    assert found.status == doctor.SLOW
    assert "fast-cpu" in found.advice
    assert "libopenblas0" in found.advice


def test_doctor_finds_a_broken_demo_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise BadCheckpoint("the demo is damaged")

    monkeypatch.setattr(elm_mlx, "load", broken)
    found = named("self-test")
    assert (found.status, found.detail) == (doctor.BROKEN, "the demo is damaged")
    assert cli.run(["doctor"]) == 1


def test_doctor_sees_the_token_and_the_switch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert "no token" in named("hub").detail
    (tmp_path / "token").write_text("hf_x", encoding="utf-8")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "switched off" in named("hub").detail
    assert "a token is set" in named("hub").detail


def test_doctor_goes_on_where_a_cache_may_not_be_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(doctor, "nearest_existing", refuse)
    found = named("caches")
    assert (found.status, "ELM_MLX_CACHE" in found.advice) == (doctor.BROKEN, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_program(shell: str) -> None:
    done = elm("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_ELM_MLX_COMPLETE" in done.stdout


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_a_command() -> None:
    words = {"COMP_WORDS": "elm-mlx gen", "COMP_CWORD": "1", "_ELM_MLX_COMPLETE": "bash_complete"}
    assert elm(**words).stdout.strip() == "plain,generate"


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(("line", "said"), [
    ("elm-mlx chat --model openelm-4", "plain,openelm-450m plain,openelm-450m-instruct"),
    ("elm-mlx info ./mod", "dir,./mod"),
])  # fmt: skip
def test_bash_completes_a_models_name_and_else_a_directory(line: str, said: str) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_ELM_MLX_COMPLETE": "bash_complete"}
    assert elm(**words).stdout.split() == said.split()
