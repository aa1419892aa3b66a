"""Llama's relatives by their names: fetched, converted where that is needed, and their terms said."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import checkpoints, relatives
from helpers.fake_hub import FakeHub
from helpers.machine import Machine, listing, well

pytestmark = pytest.mark.slow


def test_bitnets_published_form_is_converted_in_its_own_bits(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    hub.add("microsoft/bitnet-b1.58-2B-4T", listing(relatives.write_bitnet(tmp_path / "source")))
    pulled = well(machine.run("pull", "bitnet-2b-instruct"))
    assert "kept in its own bits" in pulled.err
    assert well(machine.generate("bitnet-2b-instruct", NO_SOCKETS="1")).out
    assert "affine 2-bit" in well(machine.run("info", "bitnet-2b-instruct")).out


def test_mobilellms_terms_are_said_before_it_is_fetched(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    raw = relatives.MOBILELLM_LS
    source = relatives.write_bin(tmp_path / "source", raw, checkpoints.weights(raw))
    (source / "modeling_mobilellm.py").write_text("raise SystemExit('never run')", encoding="utf-8")
    hub.add("facebook/MobileLLM-125M-layer-share", listing(source))
    pulled = well(machine.run("pull", "mobilellm-125m-ls"))
    assert "not for commercial use" in pulled.err
    assert "modeling_mobilellm" not in "".join(str(path) for path in machine.home.rglob("*.py"))
    assert well(machine.generate("mobilellm-125m-ls", NO_SOCKETS="1")).out
    assert "6: each of 3 blocks runs twice in a row" in well(machine.run("info", "mobilellm-125m-ls")).out
