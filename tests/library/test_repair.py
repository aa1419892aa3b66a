"""Damaged or incomplete: found, said with the way to mend it, and mended with the fewest bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from helpers import checkpoints
from helpers.fake_hub import FakeHub
from helpers.machine import Machine, listing, pulled, sent, well


def test_bytes_that_are_not_the_hubs_are_refused(machine: Machine, hub: FakeHub) -> None:
    hub.corrupt("model.safetensors")
    done = machine.generate("openelm-450m")
    assert (done.code, done.out) == (65, "")
    assert "are not those that the hub names" in done.err
    hub.mend()
    well(machine.generate("openelm-450m"))


def test_shards_are_fetched_whole_or_not_taken(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "s", checkpoints.CONFIGS["llama-3"], shards=3)
    hub.add("some/model", listing(folder))
    path = pulled(machine.run("pull", "some/model"))
    shard = sorted(path.glob("model-00002*"))[0]
    shard.resolve().unlink()
    hub.reset()
    well(machine.generate("some/model"))
    assert set(sent(hub)) == {shard.name}


def test_an_index_that_names_what_is_not_there_is_said(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "s", checkpoints.CONFIGS["llama-3"], shards=2)
    files = {name: file for name, file in listing(folder).items() if "00002-of" not in name}
    hub.add("some/model", files)
    done = machine.generate("some/model")
    assert done.code == 66, done.err
    assert "lacks files of its own weights: model-00002-of-00002.safetensors. Try another revision." in done.err
    assert "--verify" not in done.err  # which would mend nothing


def test_weights_cached_without_their_tokenizer_are_completed(machine: Machine, hub: FakeHub) -> None:
    path = pulled(machine.run("pull", "llama-3.2-1b-instruct"))
    shutil.rmtree(machine.home / "elm")
    for file in machine.home.rglob("snapshots/*/tokenizer.json"):
        file.resolve().unlink()
        file.unlink()
    hub.reset()
    assert pulled(machine.run("pull", "llama-3.2-1b-instruct")) == path
    assert set(sent(hub)) == {"tokenizer.json"}


def test_a_cache_entry_that_lost_its_blob_is_fetched_again(machine: Machine, hub: FakeHub) -> None:
    path = pulled(machine.run("pull", "llama-3.2-1b-instruct"))
    (path / "model.safetensors").resolve().unlink()
    hub.reset()
    well(machine.generate("llama-3.2-1b-instruct"))
    assert set(sent(hub)) == {"model.safetensors"}


def test_a_damaged_mirror_of_the_tokenizer_is_fetched_again(machine: Machine, hub: FakeHub) -> None:
    path = pulled(machine.run("pull", "openelm-450m"))
    shutil.rmtree(path)
    for file in machine.home.rglob("snapshots/*/tokenizer.model"):
        file.resolve().write_bytes(b"x" + file.read_bytes()[1:])
    hub.reset()
    well(machine.run("pull", "openelm-450m"))
    assert set(sent(hub)) == {"tokenizer.model"}


def test_pull_verify_fetches_what_is_damaged_again_and_nothing_else(machine: Machine, hub: FakeHub) -> None:
    path = pulled(machine.run("pull", "openelm-450m"))
    blob = next(machine.home.rglob("snapshots/*/model.safetensors")).resolve()
    good = blob.read_bytes()
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    hub.reset()
    well(machine.run("pull", "openelm-450m"))  # which believes what is here
    assert not hub.requests
    done = well(machine.run("pull", "openelm-450m", "--verify"))
    assert "model.safetensors" in done.err
    assert sent(hub) == {"model.safetensors": len(good)}
    assert blob.read_bytes() == good
    assert pulled(done) == path  # made again, from the good one
    assert machine.run("pull", str(path), "--verify").code == 2


def test_verify_says_where_nothing_is_damaged(machine: Machine, hub: FakeHub) -> None:
    well(machine.run("pull", "llama-3.2-1b-instruct"))
    assert (
        "No file of it in the hub's cache is damaged."
        in well(machine.run("pull", "llama-3.2-1b-instruct", "--verify")).err
    )


def test_a_truncated_cache_entry_is_said_and_mended(machine: Machine, hub: FakeHub) -> None:
    well(machine.run("pull", "llama-3.2-1b-instruct"))
    blob = next(machine.home.rglob("snapshots/*/model.safetensors")).resolve()
    os.truncate(blob, blob.stat().st_size - 100)
    refused = machine.generate("llama-3.2-1b-instruct")
    assert (refused.code, refused.out) == (65, "")
    assert "pull llama-3.2-1b-instruct --verify" in refused.err
    well(machine.run("pull", "llama-3.2-1b-instruct", "--verify"))
    well(machine.generate("llama-3.2-1b-instruct"))


@pytest.mark.follows("elm-mlx pull * --verify")
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("name", ["openelm-450m", "llama-3.2-1b-instruct"])
def test_a_damaged_copy_of_ours_is_mended_as_the_error_says(machine: Machine, name: str, file: str) -> None:
    path = pulled(machine.run("pull", name))
    damaged = (path / file).resolve()
    os.truncate(damaged, damaged.stat().st_size // 2)
    refused = machine.generate(name)
    assert (refused.code, refused.out) == (65, "")
    advice = re.search(r"`elm-mlx (pull .* --verify)`", refused.err)
    assert advice
    listed = json.loads(well(machine.run("list", "--json")).out)
    assert (
        next(row for row in listed if row["name"] == name)["error"] or file == "tokenizer.json"
    )  # not read for a list
    well(machine.run(*advice[1].split()))
    well(machine.generate(name))


def test_verify_destroys_nothing_where_it_cannot_mend(machine: Machine, hub: FakeHub) -> None:
    well(machine.run("pull", "openelm-450m"))
    blob = next(machine.home.rglob("snapshots/*/model.safetensors")).resolve()
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    assert machine.run("pull", "openelm-450m", "--verify", HF_HUB_OFFLINE="1").code == 75
    assert blob.exists()
    well(machine.generate("openelm-450m", HF_HUB_OFFLINE="1"))
