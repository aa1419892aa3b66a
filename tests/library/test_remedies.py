"""What an error tells a person to do, done as it is printed: it works. (Other remedies are run where their errors are
tested: mirrors, damage, tokens, a copy of the hub's cache.)"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from helpers.fake_hub import FakeHub
from helpers.machine import APPLE, GATED, READY, Machine, listing, pulled, well

import elm_mlx
from elm_mlx.convert import convert, plan
from elm_mlx.errors import InvalidRequest


def command(text: str, begin: str = "") -> list[str]:
    """The words of the command of elm-mlx between backquotes in a text, the one that begins so."""
    found = re.search(rf"`elm-mlx ({begin}[^`]*)`", text)
    assert found, text
    return shlex.split(found[1])


def test_bits_for_a_directory_are_made_by_the_command_that_is_named(machine: Machine, ready: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        elm_mlx.pull(ready, bits=8)
    well(machine.run(*command(str(refused.value)), "--output", machine.home / "out"))
    assert elm_mlx.info(machine.home / "out").bits_per_weight > 8


def test_what_needs_no_conversion_runs_by_the_command_that_is_named(
    machine: Machine, ready: Path, tmp_path: Path
) -> None:
    odd = convert(ready, tmp_path / "a model's $(id)").output
    with pytest.raises(InvalidRequest) as refused:
        plan(odd)
    well(machine.run(*command(str(refused.value)), "--max-tokens", 1))


def test_what_is_not_here_is_fetched_by_the_command_that_is_named(machine: Machine) -> None:
    absent = machine.run("info", "openelm-450m")
    assert absent.code == 66
    well(machine.run(*command(absent.err)))
    well(machine.run("info", "openelm-450m"))


def test_a_copy_that_lost_files_is_made_again_by_the_command_in_its_row(machine: Machine) -> None:
    path = pulled(machine.run("pull", "openelm-450m", "--bits", 4))
    (path / "model.safetensors").unlink()
    row = next(row for row in json.loads(well(machine.run("list", "--json")).out) if row["path"] == str(path))
    assert pulled(machine.run(*command(row["error"], "pull"))) == path
    (path / "model.safetensors").unlink()
    well(machine.run(*command(row["error"], "rm"), "--yes"))
    assert not path.exists()


def test_bits_that_are_here_run_where_others_cannot_be_fetched(machine: Machine) -> None:
    well(machine.run("pull", "openelm-450m", "--bits", 4))
    for folder in (machine.home / "hub").iterdir():
        folder.rename(machine.home / folder.name)
    refused = machine.generate("openelm-450m", HF_HUB_OFFLINE="1")
    bits = re.search(r"What is here of it: (--bits \d)", refused.err)
    assert bits
    well(machine.generate("openelm-450m", *bits[1].split(), HF_HUB_OFFLINE="1"))


def test_a_gated_model_names_one_that_is_not(machine: Machine, hub: FakeHub, ready: Path) -> None:
    hub.add(f"{GATED}-Instruct", listing(ready), gated=True)
    refused = machine.run("pull", f"{GATED}-Instruct")
    other = re.search(r"Or take (\S+), which asks for neither", refused.err)
    assert other
    assert other[1] == READY
    well(machine.run("pull", other[1]))


def test_another_folder_is_taken_where_the_usual_one_cannot_be_written(machine: Machine) -> None:
    machine.home.mkdir()
    (machine.home / "file").write_text("", encoding="utf-8")
    refused = machine.run("pull", APPLE, ELM_MLX_CACHE=str(machine.home / "file"))
    assert "set ELM_MLX_CACHE to a folder of yours" in refused.err
    well(machine.run("pull", APPLE, ELM_MLX_CACHE=str(machine.home / "mine")))
    refused = machine.run("pull", READY, HF_HUB_CACHE=str(machine.home / "file"))
    assert "set HF_HUB_CACHE to a folder of yours" in refused.err
    well(machine.run("pull", READY, HF_HUB_CACHE=str(machine.home / "mine")))
