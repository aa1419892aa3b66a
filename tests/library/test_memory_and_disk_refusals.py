"""What this machine has no room for, or may not write, is said before the weights are fetched."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.fake_hub import FakeHub
from helpers.machine import APPLE, READY, Machine, sent, well

import elm_mlx
from elm_mlx.device import memory
from elm_mlx.errors import DiskFull
from elm_mlx.library import copies
from elm_mlx.library import hub as hub_module


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing fits."""
    monkeypatch.setattr(memory, "memory_limit", lambda: 1000)


@pytest.mark.usefixtures("little_memory")
def test_too_little_memory_is_said_before_the_weights_are_fetched(machine: Machine, hub: FakeHub) -> None:
    done = machine.run("pull", "openelm-450m")
    assert done.code == 71, done.err
    assert "model.safetensors" not in sent(hub)


@pytest.mark.usefixtures("little_memory")
def test_python_may_force_what_memory_refuses(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    with machine.here():
        assert len(elm_mlx.load("openelm-450m", force=True).generate("Hi", 3).tokens) == 3
    assert capfd.readouterr() == ("", "")


def test_other_bits_than_a_repository_has_are_refused_before_its_weights_are_fetched(
    machine: Machine, hub: FakeHub
) -> None:
    refused = machine.run("pull", READY, "--bits", 8, "--force")
    assert refused.code == 2
    assert "quantized to 4 bits already" in refused.err
    assert set(sent(hub)) == {"config.json"}


def test_too_little_disk_is_said_before_the_first_byte(
    machine: Machine, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10, used=5, free=5))
    done = machine.run("pull", "openelm-450m", "--force")
    assert done.code == 74, done.err
    assert not sent(hub)


def test_a_full_disk_is_answered_with_the_settings_of_a_name_s_places(
    machine: Machine, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    well(machine.run("convert", APPLE, "--output", machine.home / "out"))  # brings the checkpoint and its tokenizer
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10, used=5, free=5))
    made = machine.run("pull", "openelm-450m", "--bits", 4)
    assert (made.code, "ELM_MLX_CACHE" in made.err, "--output" in made.err) == (74, True, False)
    fetched = machine.run("pull", READY, "--force", HF_HUB_CACHE=str(machine.home / "other"))
    assert (fetched.code, "HF_HUB_CACHE" in fetched.err, "--output" in fetched.err) == (74, True, False)


@pytest.mark.usefixtures("little_memory")
def test_a_repair_asks_for_memory_and_room_as_a_pull_does(
    machine: Machine, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.run("pull", "openelm-450m", "--verify").code == 71
    monkeypatch.setattr(copies, "check_writable", lambda: None)
    monkeypatch.setattr(hub_module, "check_room_for", refuse_the_conversion)
    for repairing in ((), ("--verify",)):
        done = machine.run("pull", "openelm-450m", "--force", *repairing)
        assert (done.code, "no room for the conversion" in done.err) == (74, True)
    assert set(sent(hub)) == {"config.json"}
    monkeypatch.undo()
    well(machine.run("pull", "openelm-450m", "--force", "--verify"))


def refuse_the_conversion(listing: hub_module.Listing, also: int = 0, at: Path | None = None) -> None:
    """A disk with room for what is fetched and for nothing that is made of it."""
    if also:
        raise DiskFull("no room for the conversion")


def test_a_cache_that_cannot_be_written_is_said_before_the_weights_are_fetched(machine: Machine, hub: FakeHub) -> None:
    (machine.home / "file").parent.mkdir(parents=True, exist_ok=True)
    (machine.home / "file").write_text("", encoding="utf-8")
    done = machine.run("pull", "openelm-450m", ELM_MLX_CACHE=str(machine.home / "file"))
    assert done.code == 1
    assert "set ELM_MLX_CACHE" in done.err
    assert "model.safetensors" not in sent(hub)


def test_a_cache_that_cannot_be_written_is_said_where_the_weights_are_here(machine: Machine) -> None:
    well(machine.generate("openelm-450m"))
    (machine.home / "file").write_text("", encoding="utf-8")
    done = machine.generate("openelm-450m", ELM_MLX_CACHE=str(machine.home / "file"))
    assert (done.code, "set ELM_MLX_CACHE" in done.err, "--output" in done.err) == (1, True, False)


def test_a_place_for_the_hubs_files_that_is_none_is_said(machine: Machine) -> None:
    machine.home.mkdir()
    (machine.home / "file").write_text("", encoding="utf-8")
    done = machine.run("pull", "openelm-450m", HF_HOME=str(machine.home / "file" / "hf"))
    assert (done.code, "HF_HOME" in done.err) == (1, True)
