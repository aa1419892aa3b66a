"""From a name to text against a hub on this machine: real processes, real downloads, and the faults between."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pexpect
import pytest
from helpers import checkpoints
from helpers.fake_hub import FakeHub
from helpers.machine import APPLE, GATED, MIRRORS, PROGRAM, READY, Machine, listing, sent, well


def test_a_name_becomes_text_and_the_second_time_without_the_network(machine: Machine, hub: FakeHub) -> None:
    first = well(machine.generate("openelm-450m"))
    assert "has a tokenizer.model that is not Llama 2's" in first.stderr
    assert f"comes from {MIRRORS[1]}" in first.stderr
    assert f"Fetching {APPLE} at commit" in first.stderr
    assert not {"modeling_openelm.py", "README.md"} & set(sent(hub))
    hub.reset()
    second = well(machine.generate("openelm-450m", NO_SOCKETS="1"))
    assert second.stdout == first.stdout != ""
    assert not hub.requests
    assert second.stderr.count(f"{APPLE} at commit") == 1


def test_bits_make_and_find_their_own_variant(machine: Machine, hub: FakeHub) -> None:
    made = well(machine.run("pull", "openelm-450m", "--bits", 4))
    path = Path(made.stdout.strip())
    assert json.loads((path / "config.json").read_text(encoding="utf-8"))["quantization"]["bits"] == 4
    hub.reset()
    assert well(machine.run("pull", "openelm-450m", "--bits", 4, NO_SOCKETS="1")).stdout == made.stdout
    # Another variant of what the hub's cache holds needs no network either.
    other = well(machine.run("pull", "openelm-450m", NO_SOCKETS="1"))
    assert other.stdout != made.stdout
    assert not hub.requests


def test_a_ready_conversion_runs_from_the_hubs_cache(machine: Machine, hub: FakeHub) -> None:
    done = well(machine.run("pull", "llama-3.2-1b-instruct"))
    path = Path(done.stdout.strip())
    assert (path / "model.safetensors").resolve().is_relative_to(machine.home / "hub")  # not there twice
    assert f"{READY} is a 4-bit conversion of {GATED}-Instruct by others than its publisher" in done.stderr
    hub.reset()
    well(machine.generate("llama-3.2-1b-instruct", NO_SOCKETS="1"))
    assert not hub.requests
    refused = machine.generate(READY, "--bits", 8)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "quantized to 4 bits already" in refused.stderr


def test_a_published_tokenizer_is_made_compact_for_quick_starts(machine: Machine, hub: FakeHub, ready: Path) -> None:
    spread = json.dumps(json.loads((ready / "tokenizer.json").read_text(encoding="utf-8")), indent=4).encode()
    hub.add(READY, listing(ready) | {"tokenizer.json": spread})
    path = Path(well(machine.run("pull", "llama-3.2-1b-instruct")).stdout.strip())
    assert (path / "tokenizer.json").stat().st_size < len(spread) / 2
    assert json.loads((path / "tokenizer.json").read_bytes()) == json.loads(spread)
    assert any(file.read_bytes() == spread for file in (machine.home / "hub").rglob("blobs/*"))  # the hub's, untouched


def test_what_others_fetched_into_the_hubs_cache_runs_and_is_kept(machine: Machine, hub: FakeHub) -> None:
    path = Path(well(machine.run("pull", "llama-3.2-1b-instruct")).stdout.strip())
    shutil.rmtree(machine.home / "elm")
    again = well(machine.run("pull", READY, NO_SOCKETS="1"))
    assert Path(again.stdout.strip()) == path


def test_rm_of_a_published_model_leaves_the_hubs_cache(machine: Machine, hub: FakeHub) -> None:
    well(machine.run("pull", "llama-3.2-1b-instruct"))
    done = well(machine.run("rm", "llama-3.2-1b-instruct", "--yes"))
    assert "hf cache rm" in done.stderr
    hub.reset()
    well(machine.generate("llama-3.2-1b-instruct", NO_SOCKETS="1"))
    assert not hub.requests


def test_convert_takes_a_name_and_finds_its_tokenizer(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    well(machine.run("convert", APPLE, "--bits", 4, "--group-size", 32, cwd=work))
    made = work / "OpenELM-450M-mlx-4bit"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in made.iterdir()}
    hub.reset()
    named = well(machine.run("convert", "openelm-450m", "--output", work / "b", NO_SOCKETS="1", cwd=work))
    assert f"{APPLE} at commit" in named.stderr
    assert well(machine.generate(str(work / "b"))).stdout
    compared = machine.run("verify", work / "b", "--against", APPLE, "--tokens", 8, "--max-kl", 9, NO_SOCKETS="1")
    assert "verdict" in well(compared).stdout
    assert not hub.requests


def test_a_dry_run_of_a_name_plans_from_what_is_here(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    command = ["convert", APPLE, "--output", tmp_path / "a" / "out", "--dry-run"]
    absent = machine.run(*command)
    assert (absent.returncode, absent.stdout) == (66, "")
    assert f"{APPLE} is not on this machine" in absent.stderr
    assert not (tmp_path / "a").exists()
    assert not hub.requests
    well(machine.run("pull", "openelm-450m"))
    hub.reset()
    planned = well(machine.run(*command, NO_SOCKETS="1"))
    assert "tokenizer.model" in planned.stdout
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
    assert machine.run("convert", APPLE, *options, cwd=tmp_path).returncode == code
    assert not hub.requests


def test_what_a_killed_conversion_left_is_gone_on_with_or_removed(machine: Machine) -> None:
    script = (
        "import os, elm_mlx.convert.output.pipeline as p\n"
        "right, seen = p.write_weight, []\n"
        "def stop(*given):\n"
        "    seen.append(1)\n"
        "    len(seen) > 3 and os.kill(os.getpid(), 9)\n"
        "    return right(*given)\n"
        "p.write_weight = stop\n"
    )
    command = [sys.executable, "-c", script + PROGRAM, "pull", "openelm-450m"]
    for _ in range(2):
        killed = subprocess.run(command, env=machine.environment, capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL
        left = [*(machine.home / "elm").rglob(".*.partial")]
        assert left
        well(machine.run("rm", "openelm-450m", "--yes"))
        assert not [*(machine.home / "elm").rglob(".*")]
    assert machine.run("rm", "openelm-450m", "--yes").returncode == 66
    subprocess.run(command, env=machine.environment, capture_output=True, check=False)
    well(machine.generate("openelm-450m"))
    assert not [*(machine.home / "elm").rglob(".*")]


def test_convert_of_a_gated_name_takes_the_original(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    refused = machine.run("convert", "llama-3.2-1b", "--output", tmp_path / "o")
    assert (refused.returncode, (tmp_path / "o").exists()) == (77, False)
    assert machine.run("convert", "openelm-45m").returncode == 66


def test_weights_cached_without_their_tokenizer_are_completed(machine: Machine, hub: FakeHub) -> None:
    path = Path(well(machine.run("pull", "llama-3.2-1b-instruct")).stdout.strip())
    shutil.rmtree(machine.home / "elm")
    for file in machine.home.rglob("snapshots/*/tokenizer.json"):
        file.resolve().unlink()
        file.unlink()
    hub.reset()
    assert Path(well(machine.run("pull", "llama-3.2-1b-instruct")).stdout.strip()) == path
    assert set(sent(hub)) == {"tokenizer.json"}


def test_a_gated_repository_says_where_to_accept_and_how_to_set_a_token(machine: Machine, hub: FakeHub) -> None:
    refused = machine.generate("llama-3.2-1b")
    assert refused.returncode == 77
    assert f"https://huggingface.co/{GATED}" in refused.stderr
    assert "HF_TOKEN" in refused.stderr
    well(machine.generate("llama-3.2-1b", HF_TOKEN="hf_good"))
    assert "consolidated.00.pth" not in sent(hub)


def test_a_gated_original_names_its_ungated_conversion(machine: Machine, hub: FakeHub, ready: Path) -> None:
    hub.add(f"{GATED}-Instruct", listing(ready), gated="hf_good")
    for named in (("llama-3.2-1b-instruct", "--bits", 8), (f"{GATED}-Instruct",)):
        refused = machine.generate(*named)
        assert refused.returncode == 77
        assert READY in refused.stderr


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_and_not_there_is_said_at_once(machine: Machine, hub: FakeHub, switch: str) -> None:
    done = machine.generate("openelm-450m", **{switch: "1"})
    assert (done.returncode, done.stdout) == (75, "")
    assert f"not on this machine, and {switch} forbids" in done.stderr
    assert not hub.requests


def test_a_killed_download_goes_on_in_another_process(machine: Machine, hub: FakeHub, apple: Path) -> None:
    size = (apple / "model.safetensors").stat().st_size
    hub.slow("model.safetensors", size / 4)
    process = machine.start("pull", "openelm-450m")
    while not any(file.stat().st_size > size / 4 for file in machine.home.rglob("*.partial")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    hub.mend()
    hub.reset()
    well(machine.generate("openelm-450m"))
    assert 0 < sent(hub)["model.safetensors"] < 0.8 * size
    assert not [*machine.home.rglob("*.partial")]


def test_a_download_shows_its_bytes_on_a_terminal_and_ctrl_c_ends_it_tidily(machine: Machine, hub: FakeHub) -> None:
    hub.slow("model.safetensors", 100_000)
    eager = "import elm_mlx.cli.progress as p; p.PATIENCE_S = -1\n" + PROGRAM
    terminal = {"TERM": "xterm", "COLUMNS": "100"}
    child = pexpect.spawn(
        sys.executable, ["-c", eager, "pull", "openelm-450m"], env=machine.environment | terminal, timeout=30
    )
    child.expect(rb"Fetching.*\d/\d+\.\d [kM]B")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert b"\x1b[?25h" in child.before, child.before  # the cursor is back
    assert b"Traceback" not in child.before
    hub.mend()
    well(machine.generate("openelm-450m"))


def test_what_is_here_is_found_without_the_hubs_code(machine: Machine) -> None:
    well(machine.run("pull", "openelm-450m"))
    script = "import sys, elm_mlx; elm_mlx.pull('openelm-450m'); sys.exit('huggingface_hub' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], env=machine.environment, check=True)


def test_a_cut_within_a_process_is_not_noticed(machine: Machine, hub: FakeHub) -> None:
    hub.cut("model.safetensors", after=1000, times=2)
    well(machine.generate("openelm-450m"))


def test_bytes_that_are_not_the_hubs_are_refused(machine: Machine, hub: FakeHub) -> None:
    hub.corrupt("model.safetensors")
    done = machine.generate("openelm-450m")
    assert (done.returncode, done.stdout) == (65, "")
    assert "not the bytes that the hub names" in done.stderr
    hub.mend()
    well(machine.generate("openelm-450m"))


def test_no_mirror_with_the_right_tokenizer_is_said(machine: Machine, hub: FakeHub) -> None:
    done = machine.generate("openelm-450m", SHA256="0" * 64)
    assert (done.returncode, done.stdout) == (66, "")
    assert "on none of its mirrors" in done.stderr
    assert "--tokenizer" in done.stderr


def test_two_pulls_at_once_both_end_well(machine: Machine, hub: FakeHub) -> None:
    hub.slow("model.safetensors", 400_000)
    both = [machine.start("pull", "openelm-450m", "--bits", 4) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]


def test_a_cache_entry_that_lost_its_blob_is_fetched_again(machine: Machine, hub: FakeHub) -> None:
    path = Path(well(machine.run("pull", "llama-3.2-1b-instruct")).stdout.strip())
    (path / "model.safetensors").resolve().unlink()
    hub.reset()
    well(machine.generate("llama-3.2-1b-instruct"))
    assert set(sent(hub)) == {"model.safetensors"}


def test_pull_verify_fetches_what_is_damaged_again_and_nothing_else(machine: Machine, hub: FakeHub) -> None:
    path = Path(well(machine.run("pull", "openelm-450m")).stdout.strip())
    blob = next(machine.home.rglob("snapshots/*/model.safetensors")).resolve()
    good = blob.read_bytes()
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    hub.reset()
    well(machine.run("pull", "openelm-450m"))  # which believes what is here
    assert not hub.requests
    done = well(machine.run("pull", "openelm-450m", "--verify"))
    assert "model.safetensors" in done.stderr
    assert sent(hub) == {"model.safetensors": len(good)}
    assert blob.read_bytes() == good
    assert Path(done.stdout.strip()) == path  # made again, from the good one
    assert machine.run("pull", str(path), "--verify").returncode == 2


def test_a_truncated_cache_entry_is_said_and_mended(machine: Machine, hub: FakeHub) -> None:
    well(machine.run("pull", "llama-3.2-1b-instruct"))
    blob = next(machine.home.rglob("snapshots/*/model.safetensors")).resolve()
    os.truncate(blob, blob.stat().st_size - 100)
    refused = machine.generate("llama-3.2-1b-instruct")
    assert (refused.returncode, refused.stdout) == (65, "")
    assert "pull llama-3.2-1b-instruct --verify" in refused.stderr
    well(machine.run("pull", "llama-3.2-1b-instruct", "--verify"))
    well(machine.generate("llama-3.2-1b-instruct"))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("name", ["openelm-450m", "llama-3.2-1b-instruct"])
def test_a_damaged_copy_of_ours_is_mended_as_the_error_says(machine: Machine, name: str, file: str) -> None:
    path = Path(well(machine.run("pull", name)).stdout.strip())
    damaged = (path / file).resolve()
    os.truncate(damaged, damaged.stat().st_size // 2)
    refused = machine.generate(name)
    assert (refused.returncode, refused.stdout) == (65, "")
    advice = re.search(r"`elm-mlx (pull .* --verify)`", refused.stderr)
    assert advice
    listed = json.loads(well(machine.run("list", "--json")).stdout)
    assert (
        next(row for row in listed if row["name"] == name)["error"] or file == "tokenizer.json"
    )  # not read for a list
    well(machine.run(*advice[1].split()))
    well(machine.generate(name))


def test_verify_destroys_nothing_where_it_cannot_mend(machine: Machine, hub: FakeHub) -> None:
    well(machine.run("pull", "openelm-450m"))
    blob = next(machine.home.rglob("snapshots/*/model.safetensors")).resolve()
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    assert machine.run("pull", "openelm-450m", "--verify", HF_HUB_OFFLINE="1").returncode == 75
    assert blob.exists()
    well(machine.generate("openelm-450m", HF_HUB_OFFLINE="1"))


def test_a_damaged_mirror_of_the_tokenizer_is_fetched_again(machine: Machine, hub: FakeHub) -> None:
    path = Path(well(machine.run("pull", "openelm-450m")).stdout.strip())
    shutil.rmtree(path)
    for file in machine.home.rglob("snapshots/*/tokenizer.model"):
        file.resolve().write_bytes(b"x" + file.read_bytes()[1:])
    hub.reset()
    well(machine.run("pull", "openelm-450m"))
    assert set(sent(hub)) == {"tokenizer.model"}


def test_a_bare_name_is_whatever_of_it_is_here(machine: Machine, hub: FakeHub, ready: Path, apple: Path) -> None:
    tiny = checkpoints.write(machine.home / "s", checkpoints.CONFIGS["llama-3.2"], dtype=mx.bfloat16)
    hub.add(f"{GATED}-Instruct", listing(tiny))
    well(machine.run("pull", f"{GATED}-Instruct"))
    well(machine.run("pull", f"{GATED}-Instruct", "--bits", 4))
    hub.reset()
    here = [well(machine.run("pull", "llama-3.2-1b-instruct", *bits, NO_SOCKETS="1")).stdout
            for bits in ((), ("--bits", 4))]  # fmt: skip
    assert "published-" in here[0]
    assert "4bit-" in here[1]
    assert not hub.requests


def test_what_is_here_in_other_bits_is_said_offline(machine: Machine) -> None:
    well(machine.run("pull", "openelm-450m", "--bits", 4))
    shutil.rmtree(machine.home / "hub")
    done = machine.generate("openelm-450m", HF_HUB_OFFLINE="1")
    assert done.returncode == 75
    assert "What is here of it: --bits 4" in done.stderr


def test_a_cache_that_cannot_be_written_is_said_before_the_weights_are_fetched(machine: Machine, hub: FakeHub) -> None:
    (machine.home / "file").parent.mkdir(parents=True, exist_ok=True)
    (machine.home / "file").write_text("", encoding="utf-8")
    done = machine.run("pull", "openelm-450m", ELM_MLX_CACHE=str(machine.home / "file"))
    assert done.returncode == 1
    assert "set ELM_MLX_CACHE" in done.stderr
    assert "model.safetensors" not in sent(hub)


def test_a_cache_that_cannot_be_written_is_said_where_the_weights_are_here(machine: Machine) -> None:
    well(machine.generate("openelm-450m"))
    (machine.home / "file").write_text("", encoding="utf-8")
    done = machine.generate("openelm-450m", ELM_MLX_CACHE=str(machine.home / "file"))
    assert (done.returncode, "set ELM_MLX_CACHE" in done.stderr, "--output" in done.stderr) == (1, True, False)


def test_a_place_for_the_hubs_files_that_is_none_is_said(machine: Machine) -> None:
    machine.home.mkdir()
    (machine.home / "file").write_text("", encoding="utf-8")
    done = machine.run("pull", "openelm-450m", HF_HOME=str(machine.home / "file" / "hf"))
    assert (done.returncode, "HF_HOME" in done.stderr) == (1, True)


def test_a_proxy_that_cannot_be_used_is_a_sentence(machine: Machine) -> None:
    done = machine.run("pull", "openelm-450m", ALL_PROXY="socks5://127.0.0.1:1", all_proxy="socks5://127.0.0.1:1")
    assert (done.returncode, "Traceback" in done.stderr) == (75, False)


def test_rm_removes_our_copies_alone(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    path = Path(well(machine.run("pull", "openelm-450m")).stdout.strip())
    before = sorted((machine.home / "hub").rglob("*")) if (machine.home / "hub").exists() else []
    unanswered = machine.run("rm", "openelm-450m")
    assert unanswered.returncode != 0
    assert path.exists()
    well(machine.run("rm", "openelm-450m", "--yes"))
    assert not path.exists()
    assert before == (sorted((machine.home / "hub").rglob("*")) if (machine.home / "hub").exists() else [])
    assert machine.run("rm", "openelm-450m", "--yes").returncode == 66
    hub.reset()
    well(machine.generate("openelm-450m", NO_SOCKETS="1"))  # the hub's cache still has what it is made from


def test_rm_follows_no_link(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    path = Path(well(machine.run("pull", "openelm-450m")).stdout.strip())
    mine = tmp_path / "mine"
    shutil.copytree(path, mine)
    shutil.rmtree(path)
    path.symlink_to(mine)
    assert machine.run("rm", "openelm-450m", "--yes").returncode == 66
    assert (mine / "config.json").exists()


def test_list_tells_what_is_here(machine: Machine, hub: FakeHub) -> None:
    well(machine.run("pull", "openelm-450m", "--bits", 4))
    rows = json.loads(well(machine.run("list", "--json", NO_SOCKETS="1")).stdout)
    here = [row for row in rows if row["path"]]
    assert [row["name"] for row in here] == ["openelm-450m"]
    assert [row["name"] for row in rows].count("openelm-450m") == 1
    assert "affine 4-bit" in well(machine.run("info", "openelm-450m", NO_SOCKETS="1")).stdout
    assert 4 < here[0]["bits"] < 8
    assert "openelm-270m" in well(machine.run("list", "-q")).stdout.splitlines()


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
    assert done.returncode == 66
    assert f"Did you mean {meant}" in done.stderr


def test_an_unknown_repository_says_so(machine: Machine) -> None:
    done = machine.generate("nobody/nothing")
    assert done.returncode == 66
    assert "nobody/nothing" in done.stderr


def test_a_known_repository_that_the_hub_lost_is_not_offered_again(machine: Machine) -> None:
    done = machine.generate("openelm-3b")
    assert (done.returncode, "Did you mean" in done.stderr) == (66, False)


def test_a_wrong_address_of_the_hub_is_said(machine: Machine) -> None:
    done = machine.generate("openelm-450m", HF_ENDPOINT="nonsense")
    assert (done.returncode, "Check the network and HF_ENDPOINT" in done.stderr) == (75, True)


def test_a_hub_that_does_not_answer_is_said(machine: Machine, hub: FakeHub) -> None:
    hub.offline()
    done = machine.generate("openelm-450m")
    assert (done.returncode, done.stdout) == (75, "")
    assert "could not be fetched" in done.stderr


def test_too_little_memory_is_said_before_the_weights_are_fetched(machine: Machine, hub: FakeHub) -> None:
    script = "import elm_mlx.device.memory as m; m.memory_limit = lambda: 1000\n" + PROGRAM
    command = [sys.executable, "-c", script, "pull", "openelm-450m"]
    done = subprocess.run(command, env=machine.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 71, done.stderr
    assert "model.safetensors" not in sent(hub)


def test_too_little_disk_is_said_before_the_first_byte(machine: Machine, hub: FakeHub) -> None:
    script = "import shutil; shutil.disk_usage = lambda _: shutil._ntuple_diskusage(10, 5, 5)\n" + PROGRAM
    command = [sys.executable, "-c", script, "pull", "openelm-450m", "--force"]
    done = subprocess.run(command, env=machine.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 74, done.stderr
    assert not sent(hub)


def test_the_environment_of_these_tests_reaches_no_real_hub(machine: Machine) -> None:
    assert machine.environment["HF_ENDPOINT"].startswith("http://127.0.0.1")
    assert os.environ.get("HF_ENDPOINT") is None


def test_a_pinned_revision_is_that_and_no_other(machine: Machine, hub: FakeHub, apple: Path) -> None:
    first = Path(well(machine.run("pull", "openelm-450m")).stdout.strip())
    newer = hub.add(APPLE, listing(apple) | {"generation_config.json": b'{"do_sample": false}'})
    pinned = Path(well(machine.run("pull", f"{APPLE}@{newer}")).stdout.strip())
    assert newer in pinned.name
    assert pinned != first
    # What a pinned pull brought does not become what the name means.
    assert well(machine.run("pull", "openelm-450m", NO_SOCKETS="1")).stdout.strip() == str(first)
    absent = machine.run("pull", f"{APPLE}@{'0' * 40}", HF_HUB_OFFLINE="1")
    assert absent.returncode == 75


def test_a_path_is_never_a_repository(machine: Machine, hub: FakeHub) -> None:
    for path in (f"./{APPLE}", f"/nowhere/{APPLE}", "~nobody/there"):
        done = machine.generate(path)
        assert (done.returncode, done.stdout) == (66, ""), path
        assert "no directory" in done.stderr
    assert not hub.requests


@pytest.mark.parametrize("name", ["a/b--c", "a/..", "a/b@../../x", "a b"])
def test_a_name_that_none_can_have_is_a_sentence(machine: Machine, name: str) -> None:
    done = machine.generate(name)
    assert done.returncode in (2, 66), done.stderr
    assert "Traceback" not in done.stderr


def test_shards_are_fetched_whole_or_not_taken(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "s", checkpoints.CONFIGS["llama-3"], shards=3)
    hub.add("some/model", listing(folder))
    path = Path(well(machine.run("pull", "some/model")).stdout.strip())
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
    assert done.returncode == 65, done.stderr
    assert "lacks files" in done.stderr


def test_a_damaged_copy_is_listed_replaced_and_removable(machine: Machine, hub: FakeHub) -> None:
    path = Path(well(machine.run("pull", "openelm-450m")).stdout.strip())
    (path / "model.safetensors").unlink()
    rows = json.loads(well(machine.run("list", "--json")).stdout)
    assert any(row["path"] == str(path) and row["error"] for row in rows)
    well(machine.generate("openelm-450m", NO_SOCKETS="1"))
    (path / "config.json").unlink()
    well(machine.run("rm", "openelm-450m", "--yes"))
    assert not path.exists()


def test_a_busy_hub_is_asked_again(machine: Machine, hub: FakeHub) -> None:
    hub.fail("model.safetensors", status=503, times=2)
    well(machine.generate("openelm-450m"))


def test_python_may_force_what_memory_refuses(machine: Machine, hub: FakeHub) -> None:
    script = PROGRAM.replace("from elm_mlx.cli import main\nmain()", "") + (
        "import elm_mlx, elm_mlx.device.memory as machine\n"
        "machine.memory_limit = lambda: 1000\n"
        "print(len(elm_mlx.load('openelm-450m', force=True).generate('Hi', 3).tokens))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=machine.environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_other_bits_than_a_repository_has_are_refused_before_its_weights_are_fetched(
    machine: Machine, hub: FakeHub
) -> None:
    refused = machine.run("pull", READY, "--bits", 8, "--force")
    assert refused.returncode == 2
    assert "quantized to 4 bits already" in refused.stderr
    assert set(sent(hub)) == {"config.json"}
