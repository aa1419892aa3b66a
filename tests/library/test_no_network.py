"""Switched off, out of reach, or at a wrong address: what is said, and what runs all the same."""

from __future__ import annotations

import os
import shutil

import pytest
from helpers.fake_hub import FakeHub
from helpers.machine import Machine, well


def test_the_environment_of_these_tests_reaches_no_real_hub(machine: Machine) -> None:
    assert machine.environment["HF_ENDPOINT"].startswith("http://127.0.0.1")
    assert os.environ.get("HF_ENDPOINT") is None


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_and_not_there_is_said_at_once(machine: Machine, hub: FakeHub, switch: str) -> None:
    done = machine.generate("openelm-450m", **{switch: "1"})
    assert (done.code, done.out) == (75, "")
    assert f"not on this machine, and {switch} forbids" in done.err
    assert not hub.requests


def test_a_copy_of_the_hubs_cache_is_enough_without_a_network(machine: Machine) -> None:
    refused = machine.generate("openelm-450m", HF_HUB_OFFLINE="1")
    assert "copy the hub's cache of a machine that has the model" in refused.err
    well(machine.run("pull", "openelm-450m"))
    other = machine.home / "other"
    shutil.copytree(machine.home / "hub", other / "hub", symlinks=True)
    shutil.rmtree(machine.home / "hub")
    well(machine.generate("openelm-450m", HF_HUB_OFFLINE="1", HF_HOME=str(other), ELM_MLX_CACHE=str(other / "elm")))


def test_what_is_here_in_other_bits_is_said_offline(machine: Machine) -> None:
    well(machine.run("pull", "openelm-450m", "--bits", 4))
    shutil.rmtree(machine.home / "hub")
    done = machine.generate("openelm-450m", HF_HUB_OFFLINE="1")
    assert done.code == 75
    assert "What is here of it: --bits 4" in done.err


def test_a_wrong_address_of_the_hub_is_said(machine: Machine) -> None:
    done = machine.generate("openelm-450m", HF_ENDPOINT="nonsense")
    assert (done.code, "Check the network and HF_ENDPOINT" in done.err) == (75, True)


def test_a_hub_that_does_not_answer_is_said(machine: Machine, hub: FakeHub) -> None:
    hub.offline()
    done = machine.generate("openelm-450m")
    assert (done.code, done.out) == (75, "")
    assert "could not be fetched" in done.err


def test_a_proxy_that_cannot_be_used_is_a_sentence(machine: Machine) -> None:
    done = machine.run("pull", "openelm-450m", ALL_PROXY="socks5://127.0.0.1:1", all_proxy="socks5://127.0.0.1:1")
    assert (done.code, "Traceback" in done.err) == (75, False)
