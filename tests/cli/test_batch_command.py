"""`elm-mlx batch`: as the program runs it, with a real model, killed for real."""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import PATIENCE_S, answer, ended, run, start

import elm_mlx

LINES: list[dict[str, Any]] = [
    {"id": "story", "prompt": "Once upon a time", "max_tokens": 6},
    {"id": 9, "prompt": "One day a fox", "temperature": 1, "max_tokens": 5},
    {"prompt": "The dog", "temperature": 0.7, "top_k": 20, "seed": 4},
    {"custom_id": "c", "method": "POST", "url": "/v1/completions", "body": {"prompt": "The cat", "max_tokens": 4}},
    {"custom_id": "d", "body": {"prompt": "The cat", "best_of": 2}},
    {"id": "far", "prompt": "far " * 2000},
]  # fmt: skip
SLOW = """
import os, signal, sys
real, left = os.pwrite, int(sys.argv.pop(1))
def pwrite(descriptor, data, place):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(descriptor, data[:1], place)
os.pwrite = pwrite
from elm_mlx.cli import main
main()
"""


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def records(out: Path) -> dict[Any, dict[str, Any]]:
    """The answers by id."""
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return {line.get("custom_id", line["id"]): line for line in found}


def lines(out: Path) -> list[bytes]:
    return sorted(out.read_bytes().splitlines())


# Answers


def test_a_line_is_answered_as_generate_answers_it(requests: Path, out: Path) -> None:
    done = run("batch", requests, "-o", out, "--max-tokens", 7)
    assert (done.code, done.out) == (1, "")
    assert "Lines written: 6; 22 tokens in" in done.err
    found = records(out)
    alone = answer(run("generate", "--prompt", "Once upon a time", "--max-tokens", 6, "--json"))
    assert {name: found["story"][name] for name in ("text", "tokens", "finish_reason")} == {
        name: alone[name] for name in ("text", "tokens", "finish_reason")
    }
    options = ["--temperature", 0.7, "--top-k", 20, "--seed", 4, "--max-tokens", 7]
    assert found[3]["tokens"] == answer(run("generate", "--prompt", "The dog", *options, "--json"))["tokens"]
    body = found["c"]["response"]["body"]
    assert (body["model"], body["choices"][0]["finish_reason"]) == ("demo", "length")
    assert body["usage"]["completion_tokens"] == 4
    assert "body.best_of" in found["d"]["error"]["message"]
    assert "context" in found["far"]["error"]


def test_all_is_well_is_exit_0_and_a_second_start_loads_no_model(
    requests: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests.write_text('{"prompt": "Hi", "max_tokens": 1}\n\n', encoding="utf-8")
    assert run("batch", requests, "-o", out, "--quiet") == (0, "", "")
    monkeypatch.setattr(elm_mlx, "load", lambda *_, **__: pytest.fail("loaded"))
    done = run("batch", requests, "-o", out)
    assert (done.code, done.err) == (0, "Lines written before: 1.\n")


def test_errors_count_as_done_until_they_are_asked_again(requests: Path, out: Path) -> None:
    assert run("batch", requests, "-o", out, "--max-tokens", 2).code == 1
    before = lines(out)
    again = run("batch", requests, "-o", out, "--max-tokens", 2)
    assert (again.code, lines(out)) == (1, before)
    assert again.err == "Lines written before: 6.\nLines with an error: 2. --retry-errors asks these again.\n"
    once_more = run("batch", requests, "-o", out, "--max-tokens", 2, "--retry-errors")
    assert (once_more.code, lines(out)) == (1, before)
    assert "Lines written: 2;" in once_more.err


def test_answers_go_to_stdout_and_requests_come_from_stdin(requests: Path) -> None:
    done = run("batch", "-", "-o", "-", "--max-tokens", 2, stdin=requests.read_bytes())
    assert [json.loads(line)["error"] is None for line in done.out.splitlines()].count(True) == 4
    assert done.err.endswith("Lines with an error: 2.\n")  # these cannot be asked again: the output is gone
    assert "--retry-errors means nothing on standard output" in run("batch", "-", "-o", "-", "--retry-errors").err


def test_chats_need_a_template_which_is_said_before_any_answer(requests: Path, out: Path) -> None:
    with requests.open("a", encoding="utf-8") as file:
        file.write('{"id": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}\n')
    done = run("batch", requests, "-o", out)
    assert (done.code, out.exists()) == (66, False)
    assert "no chat template. Requests with messages: 1. Give a --chat-template" in done.err
    assert run("batch", requests, "-o", out, "--chat-template", "zephyr", "-n", 2).code == 1
    assert records(out)["chat"]["error"] is None


def test_prompts_go_through_the_chat_template_as_in_generate(requests: Path, out: Path, tmp_path: Path) -> None:
    requests.write_text('{"id": 1, "prompt": "Hi"}\n{"custom_id": "c", "body": {"prompt": "Hi"}}', encoding="utf-8")
    common = ["--max-tokens", 4, "--chat-template", "zephyr"]
    assert run("batch", requests, "-o", out, *common).code == 0
    chatted = answer(run("generate", "--prompt", "Hi", *common, "--json"))
    raw = answer(run("generate", "--prompt", "Hi", "--max-tokens", 4, "--json"))
    assert records(out)[1]["tokens"] == chatted["tokens"] != raw["tokens"]
    assert records(out)["c"]["response"]["body"]["choices"][0]["text"] == raw["text"]
    assert run("batch", requests, "-o", tmp_path / "raw", *common, "--raw").code == 0
    assert records(tmp_path / "raw")[1]["tokens"] == raw["tokens"]


@pytest.mark.slow
def test_how_many_are_answered_together_changes_no_line(requests: Path, tmp_path: Path) -> None:
    asked = [{"id": n, "prompt": "The dog " * n, "temperature": n % 2, "max_tokens": 2 + n} for n in range(1, 9)]
    requests.write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")
    found = set()
    for concurrency in (1, 3, 8):
        out = tmp_path / f"{concurrency}.jsonl"
        assert run("batch", requests, "-o", out, "--concurrency", concurrency).code == 0
        found.add(tuple(lines(out)))
    assert len(found) == 1


# Refusals


def test_shared_ids_and_foreign_outputs_are_refused_before_a_model_is_loaded(
    requests: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elm_mlx, "load", lambda *_, **__: pytest.fail("loaded"))
    out.write_text("a diary", encoding="utf-8")
    assert run("batch", requests, "-o", out).code == 73
    assert run("batch", requests, "-o", requests).code == 73
    assert out.read_text(encoding="utf-8") == "a diary"
    with requests.open("a", encoding="utf-8") as file:
        file.write('{"id": "story", "prompt": "x"}\n')
    done = run("batch", requests, "-o", out.with_name("new"))
    assert (done.code, out.with_name("new").exists()) == (2, False)
    assert '"story" (lines 1, 7)' in done.err
    assert run("batch", requests.with_name("none"), "-o", out.with_name("new")).code == 66


# Endings


@pytest.mark.slow
@pytest.mark.parametrize("seed", [12, *range(3, 10)])
def test_killed_at_random_bytes_and_started_again_it_is_the_same_set_of_lines(
    requests: Path, out: Path, small_demo_folder: Path, seed: int
) -> None:
    whole = out.with_name("whole.jsonl")
    command = ["batch", requests, "-m", small_demo_folder, "-n", 4, "-o"]
    assert run(*command, whole).code == 1
    dice, starts = random.Random(seed), 0
    while True:
        killed_after = dice.randrange(600)
        process = start(killed_after, *command, out, program=[sys.executable, "-c", SLOW])
        starts += 1
        if (code := ended(process).code) != -signal.SIGKILL:
            break
    assert (code, lines(out)) == (1, lines(whole))
    assert starts > 1


def test_ctrl_c_leaves_what_is_done_and_says_how_to_go_on(endless: Path, requests: Path, out: Path) -> None:
    long = '{"id": %d, "prompt": "Hi", "max_tokens": %d}\n'
    requests.write_text((long % (1, 2)) + (long % (2, 300)) + (long % (3, 2)), encoding="utf-8")
    command = ["batch", requests, "-m", endless, "-o", out, "--concurrency", 1]
    process = start(*command)
    wait_for_a_line(out)
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.code == 130
    assert "Lines written: 1 of 3. The same command goes on from there." in done.err
    assert "Traceback" not in done.err
    assert list(records(out)) == [1]
    assert run(*command).code == 0
    assert list(records(out)) == [1, 2, 3]


def wait_for_a_line(out: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not (out.exists() and out.stat().st_size):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_full_disk_is_exit_74_and_the_same_command_goes_on(requests: Path, out: Path) -> None:
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    command = ["batch", requests, "-n", 4, "-o", out]
    done = ended(start(*command, preexec_fn=small_files))
    assert done.code == 74
    assert "cannot be written: the disk is full. Free some space" in done.err
    assert " of 6. The same command goes on from there." in done.err
    assert out.read_bytes().endswith(b"\n")
    assert run(*command).code == 1
    assert len(records(out)) == len(out.read_bytes().splitlines()) == 6
