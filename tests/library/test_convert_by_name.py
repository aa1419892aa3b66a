"""`elm-mlx convert NAME`: the publisher's checkpoint and its tokenizer, and mistakes before anything is fetched."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from helpers import foreign
from helpers.fake_hub import FakeHub
from helpers.machine import APPLE, MIRRORS, Machine, listing, sent, well


def test_convert_takes_a_name_and_finds_its_tokenizer(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    well(machine.run("convert", APPLE, "--bits", 4, "--group-size", 32, cwd=work))
    made = work / "OpenELM-450M-mlx-4bit"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in made.iterdir()}
    hub.reset()
    named = well(machine.run("convert", "openelm-450m", "--output", work / "b", NO_SOCKETS="1", cwd=work))
    assert f"{APPLE} at commit" in named.err
    assert well(machine.generate(str(work / "b"))).out
    compared = machine.run("verify", work / "b", "--against", APPLE, "--tokens", 8, "--max-kl", 9, NO_SOCKETS="1")
    assert "verdict" in well(compared).out
    assert not hub.requests


def test_a_dry_run_of_a_name_plans_from_what_is_here(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    command = ["convert", APPLE, "--output", tmp_path / "a" / "out", "--dry-run"]
    absent = machine.run(*command)
    assert (absent.code, absent.out) == (66, "")
    assert f"{APPLE} is not on this machine" in absent.err
    assert not (tmp_path / "a").exists()
    assert not hub.requests
    well(machine.run("pull", "openelm-450m"))
    hub.reset()
    planned = well(machine.run(*command, NO_SOCKETS="1"))
    assert "tokenizer.model" in planned.out
    assert not (tmp_path / "a").exists()
    assert not hub.requests


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--bits", 4, "--mode", "mxfp4"), 2),
        (("--max-shard-size", -1), 2),
        (("--tokenizer", "nope"), 66),
        (("--output", "/proc/elm-mlx/out"), 1),
        (("--output", "\udcff"), 2),
    ],
)
def test_convert_of_a_name_finds_its_own_mistakes_before_it_fetches(
    machine: Machine, hub: FakeHub, options: tuple[object, ...], code: int, tmp_path: Path
) -> None:
    assert machine.run("convert", APPLE, *options, cwd=tmp_path).code == code
    assert not hub.requests


def test_convert_of_a_gated_name_takes_the_original(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    refused = machine.run("convert", "llama-3.2-1b", "--output", tmp_path / "o")
    assert (refused.code, (tmp_path / "o").exists()) == (77, False)
    assert machine.run("convert", "openelm-45m").code == 66


@pytest.fixture
def own_tokenizer(tmp_path: Path, tokenizer: bytes) -> Path:
    """A tokenizer of the user's own."""
    path = tmp_path / "my tokenizer.model"
    path.write_bytes(tokenizer)
    return path


def test_a_tokenizer_that_is_given_asks_no_mirror(machine: Machine, hub: FakeHub, own_tokenizer: Path) -> None:
    given = ["convert", APPLE, "--tokenizer", own_tokenizer, "--output", machine.home / "out"]
    well(machine.run(*given))
    assert well(machine.generate(str(machine.home / "out"))).out
    well(machine.run(*given, "--force", "--dry-run", NO_SOCKETS="1"))
    well(machine.run(*given, "--force", NO_SOCKETS="1"))
    compared = machine.run("verify", machine.home / "out", "--against", APPLE, "--tokens", 8, NO_SOCKETS="1")
    assert "passed" in well(compared).out
    assert not [request for request in hub.requests if any(mirror in request.path for mirror in MIRRORS)]


@pytest.mark.parametrize("lost", ["mirrors", "network"])
def test_without_mirrors_the_command_of_the_refusal_makes_a_model(
    machine: Machine, hub: FakeHub, own_tokenizer: Path, lost: str
) -> None:
    well(machine.run("convert", APPLE, "--tokenizer", own_tokenizer, "--output", machine.home / "out"))  # fetches it
    environment = {"HF_HUB_OFFLINE": "1"} if lost == "network" else {"SHA256": "0" * 64}
    refused = machine.run("pull", "openelm-450m", "--bits", 4, **environment)
    assert refused.code == (75 if lost == "network" else 66)
    converting = machine.run("convert", APPLE, **environment)
    assert (converting.code, "give it: --tokenizer FILE." in converting.err) == (refused.code, True)
    advice = re.search(r"`elm-mlx (convert .*)`", refused.err)
    assert advice
    typed = [str(own_tokenizer) if word == "FILE" else word for word in shlex.split(advice[1])]
    assert typed[typed.index("--bits") + 1] == "4"
    well(machine.run(*typed, "--group-size", 32, cwd=machine.home, **environment))
    assert (machine.home / "OpenELM-450M-mlx-4bit" / "tokenizer.json").exists()


@pytest.mark.follows("elm-mlx convert * --tokenizer FILE")
def test_a_repository_without_a_tokenizer_is_refused_before_its_weights_and_takes_one(
    machine: Machine, hub: FakeHub, apple: Path, own_tokenizer: Path
) -> None:
    hub.add("some/model", listing(apple))
    refused = machine.run("pull", "some/model")
    assert refused.code == 66
    assert not sent(hub)
    advice = re.search(r"`elm-mlx (convert some/model --tokenizer FILE)`", refused.err)
    assert advice
    given = [*shlex.split(advice[1])[:-1], own_tokenizer, "--output", machine.home / "out"]
    well(machine.run(*given))
    well(machine.run(*given, "--force", NO_SOCKETS="1"))


@pytest.mark.slow
def test_what_another_library_has_quantized_is_converted_by_name_and_not_run(
    machine: Machine, hub: FakeHub, tmp_path: Path
) -> None:
    form = foreign.FORMS["gptq-4"]
    foreign.write(tmp_path / "source", foreign.LLAMA, form.settings, form.pack)
    hub.add("some/model-GPTQ", listing(tmp_path / "source"))
    refused = machine.run("pull", "some/model-GPTQ")
    assert (refused.code, "`elm-mlx convert` takes" in refused.err) == (78, True)
    assert list(sent(hub)) == ["config.json"]
    well(machine.run("convert", "some/model-GPTQ", "--dtype", "float16", "--output", machine.home / "out"))
    assert well(machine.generate(str(machine.home / "out"))).out
