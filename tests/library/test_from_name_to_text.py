"""From a name to text: fetched, converted where it must be, and found without the network the next time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
from helpers import checkpoints
from helpers.command_line import answer
from helpers.fake_hub import FakeHub
from helpers.machine import APPLE, GATED, MIRRORS, READY, Machine, listing, pulled, sent, well


def test_a_name_becomes_text_and_the_second_time_without_the_network(machine: Machine, hub: FakeHub) -> None:
    story = ["generate", "--model", "openelm-450m", "--prompt", "Once", "--max-tokens", 4]
    first = well(machine.process(*story))
    assert "has a tokenizer.model that is not Llama 2's" in first.err
    assert f"comes from {MIRRORS[1]}" in first.err
    assert f"Fetching {APPLE} at commit" in first.err
    assert not {"modeling_openelm.py", "README.md"} & set(sent(hub))
    hub.reset()
    second = well(machine.process(*story, NO_SOCKETS="1"))
    assert second.out == first.out != ""
    assert not hub.requests
    assert second.err.count(f"{APPLE} at commit") == 1


def test_bits_make_and_find_their_own_variant(machine: Machine, hub: FakeHub) -> None:
    path = pulled(machine.run("pull", "openelm-450m", "--bits", 4))
    assert json.loads((path / "config.json").read_text(encoding="utf-8"))["quantization"]["bits"] == 4
    hub.reset()
    assert pulled(machine.run("pull", "openelm-450m", "--bits", 4, NO_SOCKETS="1")) == path
    # Another variant of what the hub's cache holds needs no network either.
    assert pulled(machine.run("pull", "openelm-450m", NO_SOCKETS="1")) != path
    assert not hub.requests


def test_a_ready_conversion_runs_from_the_hubs_cache(machine: Machine, hub: FakeHub) -> None:
    done = machine.run("pull", "llama-3.2-1b-instruct")
    path = pulled(done)
    assert (path / "model.safetensors").resolve().is_relative_to(machine.home / "hub")  # not there twice
    assert f"{READY} is a 4-bit conversion of {GATED}-Instruct by others than its publisher" in done.err
    hub.reset()
    well(machine.generate("llama-3.2-1b-instruct", NO_SOCKETS="1"))
    assert not hub.requests
    refused = machine.generate(READY, "--bits", 8)
    assert (refused.code, refused.out) == (2, "")
    assert "quantized to 4 bits already" in refused.err


def test_a_published_tokenizer_is_made_compact_for_quick_starts(machine: Machine, hub: FakeHub, ready: Path) -> None:
    spread = json.dumps(json.loads((ready / "tokenizer.json").read_text(encoding="utf-8")), indent=4).encode()
    hub.add(READY, listing(ready) | {"tokenizer.json": spread})
    path = pulled(machine.run("pull", "llama-3.2-1b-instruct"))
    assert (path / "tokenizer.json").stat().st_size < len(spread) / 2
    assert json.loads((path / "tokenizer.json").read_bytes()) == json.loads(spread)
    assert any(file.read_bytes() == spread for file in (machine.home / "hub").rglob("blobs/*"))  # the hub's, untouched


def test_what_others_fetched_into_the_hubs_cache_runs_and_is_kept(machine: Machine, hub: FakeHub) -> None:
    path = pulled(machine.run("pull", "llama-3.2-1b-instruct"))
    shutil.rmtree(machine.home / "elm")
    assert pulled(machine.run("pull", READY, NO_SOCKETS="1")) == path


def test_what_is_here_is_found_without_the_hubs_code(machine: Machine) -> None:
    well(machine.run("pull", "openelm-450m"))
    script = "import sys, elm_mlx; elm_mlx.pull('openelm-450m'); sys.exit('huggingface_hub' in sys.modules)"
    well(machine.process(program=script))


def test_openelm_by_name_is_asked_as_apple_recommends_and_so_is_a_directory_converted_by_that_name(
    machine: Machine, hub: FakeHub, apple: Path
) -> None:
    def penalty(model: object) -> object:
        return answer(machine.run("generate", "--model", model, "--show-config", "--json"))["repetition_penalty"]

    path = pulled(machine.run("pull", "openelm-450m", "--bits", 4))
    well(machine.run("pull", "openelm-450m"))
    well(machine.run("convert", APPLE, "--output", machine.home / "by-name"))
    tokenizer = path / "tokenizer.json"
    well(machine.run("convert", apple, "--output", machine.home / "by-folder", "--tokenizer", tokenizer))
    hub.reset()
    recommended = {"value": 1.2, "origin": "recommendation, Apple's for OpenELM"}
    for model in ("openelm-450m", APPLE, path, machine.home / "by-name"):
        assert penalty(model) == recommended
    assert penalty(machine.home / "by-folder") == {"value": 1.0, "origin": "default"}
    assert not hub.requests


def test_show_config_fetches_nothing(machine: Machine, hub: FakeHub) -> None:
    done = machine.run("chat", "--model", "openelm-450m", "--show-config")
    assert (done.code, done.out, hub.requests) == (66, "", [])
    assert "Fetch it by `elm-mlx pull openelm-450m`. --show-config fetches nothing." in done.err
    well(machine.run("pull", "openelm-450m"))
    assert "recommendation, Apple's" in machine.run("chat", "--model", "openelm-450m", "--show-config").out


def test_a_bare_name_is_whatever_of_it_is_here(machine: Machine, hub: FakeHub, ready: Path, apple: Path) -> None:
    tiny = checkpoints.write(machine.home / "s", checkpoints.CONFIGS["llama-3.2"], dtype=mx.bfloat16)
    hub.add(f"{GATED}-Instruct", listing(tiny))
    well(machine.run("pull", f"{GATED}-Instruct"))
    well(machine.run("pull", f"{GATED}-Instruct", "--bits", 4))
    hub.reset()
    here = [well(machine.run("pull", "llama-3.2-1b-instruct", *bits, NO_SOCKETS="1")).out
            for bits in ((), ("--bits", 4))]  # fmt: skip
    assert "published-" in here[0]
    assert "4bit-" in here[1]
    assert not hub.requests


def test_a_pinned_revision_is_that_and_no_other(machine: Machine, hub: FakeHub, apple: Path) -> None:
    first = pulled(machine.run("pull", "openelm-450m"))
    newer = hub.add(APPLE, listing(apple) | {"generation_config.json": b'{"do_sample": false}'})
    pinned = pulled(machine.run("pull", f"{APPLE}@{newer}"))
    assert newer in pinned.name
    assert pinned != first
    # What a pinned pull brought does not become what the name means.
    assert pulled(machine.run("pull", "openelm-450m", NO_SOCKETS="1")) == first
    absent = machine.run("pull", f"{APPLE}@{'0' * 40}", HF_HUB_OFFLINE="1")
    assert absent.code == 75


def test_what_each_mirror_refuses_is_said(machine: Machine, hub: FakeHub) -> None:
    hub.corrupt("tokenizer.model", times=1)
    mirrors = json.dumps([*MIRRORS, "nobody/tokenizer", "gated/tokenizer"])
    hub.add("gated/tokenizer", {"tokenizer.model": b"mine"}, gated=True)
    done = machine.generate("openelm-450m", SHA256="0" * 64, MIRRORS=mirrors)
    assert (done.code, done.out) == (66, "")
    last = done.err.splitlines()[-1]
    assert "on none of its mirrors. " in last
    told = [f"tokenizer.model of {MIRRORS[0]} is damaged", f"{MIRRORS[1]} has a tokenizer.model that is not Llama 2's",
            "no repository nobody/tokenizer", "gated/tokenizer asks you to accept its licence"]  # fmt: skip
    assert sorted(told, key=last.index) == told
    assert not sent(hub).get("model.safetensors")


def test_a_hub_that_goes_away_hides_no_refusal_of_a_mirror(machine: Machine, hub: FakeHub) -> None:
    hub.fail(f"{MIRRORS[1]}/revision/main", 418)
    done = machine.generate("openelm-450m")
    assert done.code == 75
    assert f"{MIRRORS[0]} has a tokenizer.model that is not Llama 2's. {MIRRORS[1]} could not be fetched" in done.err
