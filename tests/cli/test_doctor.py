"""`doctor`: what a newcomer asks when something seems wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers.command_line import ended, run, start

import elm_mlx
from elm_mlx import doctor
from elm_mlx.errors import BadCheckpoint


def test_doctor_finds_a_working_machine_and_tells_a_program_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for cache in ("ELM_MLX_CACHE", "HF_HOME"):  # which can be written, whatever the home of who runs this
        monkeypatch.setenv(cache, str(tmp_path))
    told = run("doctor")
    assert (told.code, told.err) == (0, "")
    findings = json.loads(ended(start("doctor", "--json")).out)
    assert {"Python", "packages", "MLX backend", "BLAS", "memory", "caches", "hub", "self-test"} <= {
        finding["name"] for finding in findings
    }
    for finding in findings:
        assert finding["name"] in told.out
        assert finding["status"] in ("ok", "slow")
        assert finding["advice"] or finding["status"] == "ok"


def test_doctor_says_which_blas_is_slow_and_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(doctor, "backend_name", lambda: "CPU, some")
    monkeypatch.setattr(elm_mlx, "fast_blas", lambda: None)
    found = doctor.examine_blas()
    assert found.status == doctor.SLOW
    assert "fast-cpu" in found.advice
    assert "libopenblas0" in found.advice


def test_doctor_finds_a_broken_demo_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise BadCheckpoint("the demo is damaged")

    monkeypatch.setattr(elm_mlx, "load", broken)
    found = doctor.run_self_test()
    assert (found.status, found.detail) == (doctor.BROKEN, "the demo is damaged")
    done = run("doctor")
    assert (done.code, "the demo is damaged" in done.out) == (1, True)


def test_doctor_sees_the_token_and_the_switch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert "no token" in doctor.examine_network().detail
    (tmp_path / "token").write_text("hf_x", encoding="utf-8")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "switched off" in doctor.examine_network().detail
    assert "a token is set" in doctor.examine_network().detail


def test_doctor_goes_on_where_a_cache_may_not_be_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(doctor, "nearest_existing", refuse)
    found = {finding.name: finding for finding in doctor.examine()}
    assert (found["caches"].status, "ELM_MLX_CACHE" in found["caches"].advice) == (doctor.BROKEN, True)
    assert "self-test" in found
