"""A name that stands for no model is a sentence, with the right name where one is near."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fake_hub import FakeHub
from helpers.machine import APPLE, GATED, READY, Machine, well

from elm_mlx.library.local import locate


def test_a_path_is_never_a_repository(machine: Machine, hub: FakeHub) -> None:
    for path in (f"./{APPLE}", f"/nowhere/{APPLE}", "~nobody/there"):
        done = machine.generate(path)
        assert (done.code, done.out) == (66, ""), path
        assert "no directory" in done.err
    assert not hub.requests


@pytest.mark.parametrize("command", ["generate", "pull", "info"])
def test_a_file_is_never_a_repository(
    machine: Machine, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("x.gguf", "folder/x.gguf", "folder/config.json"):
        Path(name).write_bytes(b"")
    for name, code, words in (
        ("x.gguf", 78, "is a GGUF file"),
        ("folder/x.gguf", 78, "runs once it is converted, here: elm-mlx convert folder/x.gguf"),
        ("nowhere/x.gguf", 78, "is a GGUF file"),
        ("folder/config.json", 66, "There is no directory folder/config.json: that is a file."),
    ):
        done = machine.run(command, *(["--model"] if command == "generate" else []), name)
        assert (done.code, words in done.err) == (code, True), done.err
    assert not hub.requests


@pytest.mark.parametrize("name", ["a/b--c", "a/..", "a/b@../../x", "a b"])
def test_a_name_that_none_can_have_is_a_sentence(machine: Machine, name: str) -> None:
    done = machine.generate(name)
    assert done.code in (2, 66), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("openelm-45m", "openelm-450m"),
        ("llama-3.3-70b", "llama-3.3-70b-instruct?"),
        ("apple/OpenELM-1.1B", "apple/OpenELM-1_1B"),
        ("meta-llama/Llama-3.2-1B-Instuct", f"{GATED}-Instruct"),
    ],
)
def test_a_near_miss_is_answered_with_the_right_name(machine: Machine, typed: str, meant: str) -> None:
    done = machine.generate(typed)
    assert done.code == 66
    assert f"Did you mean {meant}" in done.err


def test_what_is_here_in_other_bits_is_not_found_and_refused_by_a_pull(machine: Machine) -> None:
    well(machine.run("pull", READY))
    with machine.here(NO_SOCKETS="1"):
        assert locate(READY, 4)
        assert locate(READY, 8) is None
    refused = machine.run("pull", READY, "--bits", 8, NO_SOCKETS="1")
    assert (refused.code, "quantized to 4 bits already. Leave --bits out" in refused.err) == (2, True)


def test_an_unknown_repository_says_so(machine: Machine) -> None:
    done = machine.generate("nobody/nothing")
    assert done.code == 66
    assert "nobody/nothing" in done.err


def test_a_known_repository_that_the_hub_lost_is_not_offered_again(machine: Machine) -> None:
    done = machine.generate("openelm-3b")
    assert (done.code, "Did you mean" in done.err) == (66, False)
