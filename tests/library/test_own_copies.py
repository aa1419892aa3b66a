"""The copies that elm-mlx keeps: listed, and removed without touching what is others'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from helpers.fake_hub import FakeHub
from helpers.machine import Machine, pulled, well


def test_list_tells_what_is_here(machine: Machine, hub: FakeHub) -> None:
    well(machine.run("pull", "openelm-450m", "--bits", 4))
    rows = json.loads(well(machine.run("list", "--json", NO_SOCKETS="1")).out)
    here = [row for row in rows if row["path"]]
    assert [row["name"] for row in here] == ["openelm-450m"]
    assert [row["name"] for row in rows].count("openelm-450m") == 1
    assert "affine 4-bit" in well(machine.run("info", "openelm-450m", NO_SOCKETS="1")).out
    assert 4 < here[0]["bits"] < 8
    assert "openelm-270m" in well(machine.run("list", "-q")).out.splitlines()


def test_rm_removes_our_copies_alone(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    path = pulled(machine.run("pull", "openelm-450m"))
    before = sorted((machine.home / "hub").rglob("*")) if (machine.home / "hub").exists() else []
    unanswered = machine.run("rm", "openelm-450m")
    assert unanswered.code != 0
    assert path.exists()
    well(machine.run("rm", "openelm-450m", "--yes"))
    assert not path.exists()
    assert before == (sorted((machine.home / "hub").rglob("*")) if (machine.home / "hub").exists() else [])
    assert machine.run("rm", "openelm-450m", "--yes").code == 66
    hub.reset()
    well(machine.generate("openelm-450m", NO_SOCKETS="1"))  # the hub's cache still has what it is made from


def test_rm_of_a_published_model_leaves_the_hubs_cache(machine: Machine, hub: FakeHub) -> None:
    well(machine.run("pull", "llama-3.2-1b-instruct"))
    done = well(machine.run("rm", "llama-3.2-1b-instruct", "--yes"))
    assert "hf cache rm" in done.err
    hub.reset()
    well(machine.generate("llama-3.2-1b-instruct", NO_SOCKETS="1"))
    assert not hub.requests


def test_rm_follows_no_link(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    path = pulled(machine.run("pull", "openelm-450m"))
    mine = tmp_path / "mine"
    shutil.copytree(path, mine)
    shutil.rmtree(path)
    path.symlink_to(mine)
    assert machine.run("rm", "openelm-450m", "--yes").code == 66
    assert (mine / "config.json").exists()


def test_a_damaged_copy_is_listed_replaced_and_removable(machine: Machine, hub: FakeHub) -> None:
    path = pulled(machine.run("pull", "openelm-450m"))
    (path / "model.safetensors").unlink()
    rows = json.loads(well(machine.run("list", "--json")).out)
    assert any(row["path"] == str(path) and row["error"] for row in rows)
    well(machine.generate("openelm-450m", NO_SOCKETS="1"))
    (path / "config.json").unlink()
    well(machine.run("rm", "openelm-450m", "--yes"))
    assert not path.exists()
