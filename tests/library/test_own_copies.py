"""The copies that elm-mlx keeps: listed, and removed without touching what is others'."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from helpers.command_line import recorder
from helpers.fake_hub import FakeHub
from helpers.machine import READY, Machine, pulled, well

from elm_mlx import cli

HF = "from huggingface_hub.cli.hf import main; main()"


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


def hint_of_rm(machine: Machine) -> str:
    """The command that rm names for what a conversion was made from."""
    well(machine.run("pull", "openelm-450m"))
    done = well(machine.run("rm", "openelm-450m", "--yes"))
    command = re.search(r"`(hf cache rm .*?)`", done.err)
    assert command
    return command[1]


def test_rm_says_how_to_remove_what_a_conversion_was_made_from(machine: Machine, hub: FakeHub) -> None:
    command = hint_of_rm(machine)
    assert command == "hf cache rm model/apple/OpenELM-450M"
    assert command in machine.run("rm", "openelm-450m", "--yes").err  # where nothing is kept, too


@pytest.mark.slow
def test_what_rm_says_removes_it(machine: Machine, hub: FakeHub) -> None:
    well(machine.process(*shlex.split(hint_of_rm(machine))[1:], "--yes", program=HF))
    assert not [*(machine.home / "hub").rglob("model.safetensors")]
    assert "hf cache" not in machine.run("rm", "openelm-450m", "--yes").err


def test_every_row_of_a_list_is_one_line_and_rm_knows_its_name(machine: Machine, hub: FakeHub) -> None:
    path = pulled(machine.run("pull", "openelm-450m", "--bits", 4))
    kept = path.parents[1]
    for folder in ("strangers", "no\nrepository", "some--model\x1b[2J", "some--model"):
        shutil.copytree(path, kept / folder / "bf16-\n12")
        (kept / folder / "bf16-\n12" / "model.safetensors").unlink()
    rows = well(machine.run("list")).out.splitlines()
    here = [row for row in rows if str(kept) in row]
    assert [row.split()[0] for row in here] == ["openelm-450m", "some/model"]
    assert not [row for row in rows if not row.isprintable()]
    assert "`elm-mlx rm some/model`" in here[1]
    well(machine.run("rm", "some/model", "--yes"))
    assert not (kept / "some--model").exists()


def test_a_pull_prints_a_path_that_is_not_utf_8_as_it_is(machine: Machine, hub: FakeHub) -> None:
    odd = machine.home / os.fsdecode(b"\xff")
    with machine.here(ELM_MLX_CACHE=str(odd)), redirect_stdout(recorder(errors="replace")) as out:
        assert cli.run(["pull", READY, "--quiet"]) == 0
    printed = Path(os.fsdecode(out.buffer.getvalue().removesuffix(b"\n")))
    assert printed.is_dir()
    assert odd in printed.parents


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
