"""A repository behind a gate: where to accept its licence, and what runs without."""

from __future__ import annotations

from pathlib import Path

from helpers.fake_hub import FakeHub
from helpers.machine import GATED, READY, Machine, listing, sent, well


def test_a_gated_repository_says_where_to_accept_and_how_to_set_a_token(machine: Machine, hub: FakeHub) -> None:
    refused = machine.generate("llama-3.2-1b")
    assert refused.code == 77
    assert f"https://huggingface.co/{GATED}" in refused.err
    assert "HF_TOKEN" in refused.err
    well(machine.generate("llama-3.2-1b", HF_TOKEN="hf_good"))
    assert "consolidated.00.pth" not in sent(hub)


def test_a_gated_original_names_its_ungated_conversion(machine: Machine, hub: FakeHub, ready: Path) -> None:
    hub.add(f"{GATED}-Instruct", listing(ready), gated="hf_good")
    for named in (("llama-3.2-1b-instruct", "--bits", 8), (f"{GATED}-Instruct",)):
        refused = machine.generate(*named)
        assert refused.code == 77
        assert READY in refused.err
