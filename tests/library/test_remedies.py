"""What an error tells a person to do, done as it is printed: it works. (Other remedies are run where their errors are
tested: mirrors, damage, tokens, a copy of the hub's cache.)"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import adapters, checkpoints, gguf_craft
from helpers.command_line import PATIENCE_S
from helpers.fake_hub import FakeHub
from helpers.followed import ran
from helpers.machine import APPLE, GATED, PROGRAM, READY, Machine, listing, pulled, well

import elm_mlx
from elm_mlx.convert import convert, plan
from elm_mlx.errors import InvalidRequest, NotFound


def command(text: str, begin: str = "") -> list[str]:
    """The words of the command of elm-mlx between backquotes in a text, the one that begins so."""
    found = re.search(rf"`elm-mlx ({begin}[^`]*)`", text)
    assert found, text
    return shlex.split(found[1])


@pytest.mark.follows("elm-mlx convert * --bits *")
def test_bits_for_a_directory_are_made_by_the_command_that_is_named(machine: Machine, ready: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        elm_mlx.pull(ready, bits=8)
    well(machine.run(*command(str(refused.value)), "--output", machine.home / "out"))
    assert elm_mlx.info(machine.home / "out").bits_per_weight > 8


@pytest.mark.follows("elm-mlx generate --model *")
def test_what_needs_no_conversion_runs_by_the_command_that_is_named(
    machine: Machine, ready: Path, tmp_path: Path
) -> None:
    odd = convert(ready, tmp_path / "a model's $(id)").output
    with pytest.raises(InvalidRequest) as refused:
        plan(odd)
    well(machine.run(*command(str(refused.value)), "--max-tokens", 1))


@pytest.mark.follows("elm-mlx pull *")
def test_what_is_not_here_is_fetched_by_the_command_that_is_named(machine: Machine) -> None:
    absent = machine.run("info", "openelm-450m")
    assert absent.code == 66
    well(machine.run(*command(absent.err)))
    well(machine.run("info", "openelm-450m"))


@pytest.mark.follows("elm-mlx list")
def test_a_name_that_is_mistyped_is_found_in_the_list_that_is_named(machine: Machine) -> None:
    refused = machine.run("pull", "openelm-45m")
    assert refused.code == 66
    assert "openelm-450m" in well(machine.run(*command(refused.err))).out


def test_a_model_of_unknown_shape_is_planned_for_once_it_is_fetched(
    machine: Machine, hub: FakeHub, ready: Path
) -> None:
    hub.add("some/model", listing(ready))
    refused = machine.run("info", "some/model", "--hosts", "1x64")
    assert refused.code == 66
    well(machine.run(*command(refused.err)))
    assert "64 GB" in well(machine.run("info", "some/model", "--hosts", "1x64")).out


@pytest.mark.follows("elm-mlx pull *", "elm-mlx rm *")
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


@pytest.mark.follows("elm-mlx convert *")
def test_a_checkpoint_of_torch_runs_after_the_command_that_is_named(machine: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    checkpoints.save_torch(folder / "pytorch_model.bin", checkpoints.weights(checkpoints.LLAMA))
    (folder / "config.json").write_text(json.dumps(checkpoints.LLAMA), encoding="utf-8")
    checkpoints.add_tokenizer(folder)
    refused = machine.generate(str(folder))
    advice = re.search(r"has to be converted first: elm-mlx (convert \S+)", refused.err)
    assert advice
    well(machine.run(*shlex.split(advice[1]), "--output", tmp_path / "out"))
    well(machine.generate(str(tmp_path / "out")))


@pytest.mark.follows("elm-mlx generate --raw")
def test_a_model_without_a_template_completes_plain_text_as_the_error_says(machine: Machine, openelm: Path) -> None:
    with elm_mlx.load(openelm) as lm, pytest.raises(NotFound) as refused:
        lm.chat([{"role": "user", "content": "Hi"}])
    well(machine.run(*command(str(refused.value)), "--model", openelm, "--prompt", "Hi", "--max-tokens", 1))


@pytest.mark.follows("elm-mlx generate", "elm-mlx merge --output DIR")
def test_an_adapter_that_is_no_model_runs_and_is_merged_by_the_commands_that_are_named(
    machine: Machine, openelm: Path, tmp_path: Path
) -> None:
    adapters.write_sums(tmp_path / "pirate", openelm, adapters.made_sums(openelm))
    refused = machine.run("convert", tmp_path / "pirate")
    for begin, more in (("generate", ("-p", "Hi", "--max-tokens", "1")), ("merge", ())):
        advice = re.search(rf"elm-mlx ({begin} .*?)(?:; or|\. Where)", refused.err)
        assert advice, refused.err
        stands = {"MODEL": str(openelm), "DIR": str(tmp_path / "merged")}
        well(machine.run(*(stands.get(word, word) for word in shlex.split(advice[1])), *more))
    assert elm_mlx.info(tmp_path / "merged").family == "openelm"


# What other programs do, which take a second to start.


def in_a_shell(machine: Machine, line: str, programs: Path) -> str:
    """Runs what a message gives a person to copy; `elm-mlx` and `hf` are on the path."""
    for part in line.split(" && "):
        ran(*shlex.split(part))
    programs.mkdir()
    ours = programs / "elm-mlx"
    ours.write_text(f"#!{sys.executable}\n{PROGRAM}", encoding="utf-8")
    ours.chmod(0o755)
    environment = machine.environment | {"PATH": f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-ec", line], cwd=programs.parent, env=environment, stdin=subprocess.DEVNULL, timeout=PATIENCE_S,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


@pytest.mark.follows("hf download * * --local-dir .", "elm-mlx convert *")
@pytest.mark.slow
def test_a_gguf_file_is_fetched_and_converted_as_the_message_says(
    machine: Machine, hub: FakeHub, tmp_path: Path
) -> None:
    file = gguf_craft.write(tmp_path / "model-Q4.gguf", gguf_craft.Model(checkpoints.LLAMA, lambda _: "F16"))
    hub.add("some/model-GGUF", {"config.json": b"{}", "model-Q4.gguf": file.read_bytes()})
    file.unlink()
    refused = machine.generate("some/model-GGUF")
    advice = re.search(r"for example: (hf download .* && elm-mlx convert \S+)", refused.err)
    assert advice
    in_a_shell(machine, advice[1], tmp_path / "bin")
    assert list(tmp_path.glob("model-Q4-mlx*"))


@pytest.mark.follows("hf cache rm 'model/*'")
@pytest.mark.slow
def test_what_the_hub_s_cache_holds_is_removed_by_the_command_that_is_named(machine: Machine, tmp_path: Path) -> None:
    well(machine.run("pull", APPLE))
    told = well(machine.run("rm", APPLE, "--yes")).err
    advice = re.search(r"to remove it, too: `(hf [^`]+)`", told)
    assert advice
    in_a_shell(machine, f"{advice[1]} --yes", tmp_path / "bin")
    assert not list((machine.home / "hub").glob("models--apple*"))
