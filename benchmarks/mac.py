"""What a Mac shows in one command, as one JSON file to send back: `just mac`, or

    python benchmarks/mac.py [--out mac.json] [--short]

It takes at most 15 minutes and 3 GB of memory, so a Mac with 8 GB is enough. The first run fetches 2.7 GB: OpenELM-270M
(1.09 GB), OpenELM-450M-Instruct (0.91 GB) and Llama-3.2-1B-Instruct in 4 bits (0.71 GB). With 50 Mbit/s this alone
takes 7 minutes. Python's packages for the tests are 0.1 GB more. Later runs find all of it here. The disk needs 5 GB,
as OpenELM is kept both as it was fetched and as it runs; `elm-mlx rm` removes elm-mlx's own copies.

Close other programs, and connect a laptop to power. A step that fails is written down, and the next one begins. What
the 15 minutes do not suffice for is written down, too: run the command again, and nothing is fetched twice. The file
names models and versions, and no folder of this machine. `--short` measures little, to try it.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCHEMA = "elm-mlx-mac/1"
BUDGET_S, STEP_S = 900, 420
# What is fetched of each, in GB, as published: float32; bfloat16; 4 bits and 0.5 for the scales of groups, and a
# tokenizer of 17 MB. OpenELM's small files and tokenizer are less than 1 MB.
MODELS = {"openelm-270m": 1.09, "openelm-450m-instruct": 0.91, "llama-3.2-1b-instruct": 0.71}
SMALLEST, LLAMA = "openelm-270m", "llama-3.2-1b-instruct"
ORIGINAL = "apple/OpenELM-270M"
PROMPT = "Once upon a time"
STORY = "there lived a good-natured pirate whose name was Rusty."  # the demo's, greedily, as the README shows it
SENT = "Attach it to an issue with the template 'A Mac's figures' (.github/ISSUE_TEMPLATE/mac.yml)."


@dataclass
class Report:
    """What was done so far, and how it went."""

    short: bool
    program: list[str]
    folder: Path
    begun: float = field(default_factory=time.monotonic)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def step(self, name: str, work: Callable[[], Any]) -> None:
        """Does one step and writes down what came of it, or why nothing did."""
        found: dict[str, Any] = {"name": name}
        print(f"{time.monotonic() - self.begun:6.0f} s  {name}", flush=True)
        start = time.monotonic()
        if not self.seconds_left():
            found["error"] = "not begun: the 15 minutes are over"
        else:
            try:
                found["result"] = work()
            except (subprocess.SubprocessError, AssertionError, OSError, ValueError, KeyError) as error:
                found["error"] = self.told(str(error))[-2000:]
                print(f"          {found['error'].splitlines()[-1]}", flush=True)
        self.steps.append(found | {"seconds": round(time.monotonic() - start, 2)})

    def seconds_left(self) -> float:
        """How long a program that begins now may take: 7 minutes, but no longer than the 15 minutes of the whole."""
        return max(0.0, min(STEP_S, self.begun + BUDGET_S - time.monotonic()))

    def run(self, *words: object) -> str:
        """Runs elm-mlx; its stdout."""
        return self.other([*self.program, *map(str, words)]).stdout

    def other(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Runs a program from the top of the repository. Raises ValueError with the end of what it said if it fails."""
        done = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=self.seconds_left(),
        )  # fmt: skip
        if done.returncode:
            raise ValueError(f"exit code {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}")
        return done

    def told(self, text: str) -> str:
        """A text without folders of this machine."""
        for path, name in ((self.folder, "TMP"), (ROOT, "."), (Path.home(), "~")):
            text = text.replace(str(path.resolve()), name).replace(str(path), name)
        return re.sub(r"/(?:Users|home)/[^/\s\"']+", "~", text)

    def json(self, *words: object) -> Any:
        """What elm-mlx prints as JSON."""
        return json.loads(self.told(self.run(*words)))


def metal_tests(report: Report) -> str:
    """The tests that need a Mac's GPU; elsewhere all of them are skipped, and the line says so."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "metal", "-rs", "tests/test_metal.py"]
    return report.told(report.other(command).stdout).strip().splitlines()[-1]


def golden(report: Report) -> dict[str, Any]:
    """The demo's story, which has to begin as it does elsewhere; twice, as greedy answers are always equal."""
    answers = [report.run("generate", "--prompt", PROMPT) for _ in range(2)]
    return {"equal": answers[0] == answers[1], "as_elsewhere": answers[0].startswith(STORY), "text": answers[0]}


def pull(report: Report, name: str) -> list[str]:
    """Fetches a published model; what was said of its repository, commit and size. Nothing, if it was here."""
    said = report.told(report.other([*report.program, "pull", name]).stderr)
    return [line for line in said.splitlines() if line.startswith("Fetching")]


def answer(report: Report, name: str) -> Any:
    """A greedy answer of a published model, with its ids: from then on a golden."""
    return report.json("generate", "--model", name, "--prompt", PROMPT, "--max-tokens", 32, "--json")


def convert(report: Report) -> Any:
    """A conversion to 4 bits, by name."""
    return report.json("convert", ORIGINAL, "--bits", 4, "--output", report.folder / "m", "--json")


def verify(report: Report) -> Any:
    """How far that conversion is from its original."""
    return report.json("verify", report.folder / "m", "--against", ORIGINAL, "--tokens", 512, "--json")


def bench(report: Report, submit: str, *model: str) -> Any:
    """Decoding at three depths, with steps submitted early or late."""
    counts = ("-n", 4, "-d", 4, "-r", 1) if report.short else ("-n", 64, "-d", "16,2048,8192", "-r", 3)
    return report.json("bench", *model, "-p", 0, *counts, "--submit", submit, "--json")


def serve(report: Report) -> dict[str, Any]:
    """A server that answers curl, and ends when it is told to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*report.program, "serve", "--model", SMALLEST, "--port", str(port)]
    log = report.folder / "serve.log"
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log, report.seconds_left())
        body = json.dumps({"prompt": PROMPT, "max_tokens": 16, "temperature": 0})
        asked = ["curl", "-sS", f"http://127.0.0.1:{port}/v1/completions", "-H", "Content-Type: application/json"]
        answered = json.loads(report.other([*asked, "-d", body]).stdout)
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    return {"usage": answered["usage"], "text": answered["choices"][0]["text"], "exit_code": code}


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    """Waits until the server answers, for at most so many seconds."""
    given_up = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < given_up:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError:
            time.sleep(0.1)
    raise ValueError(f"the server did not answer: {log.read_text(errors='replace')}")


def facts() -> dict[str, Any]:
    """The machine and the versions, without its name."""
    import mlx.core as mx

    import elm_mlx

    chip = mx.device_info() if mx.metal.is_available() else {}
    return {
        "elm_mlx": elm_mlx.__version__,
        "mlx": mx.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "metal": mx.metal.is_available(),
        "chip": {name: chip[name] for name in ("architecture", "device_name", "memory_size") if name in chip},
    }


def main() -> None:
    """Does all steps and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("mac.json"), help="where the figures go; default: mac.json")
    parser.add_argument("--short", action="store_true", help="measure little, to try the script")
    parser.add_argument("--program", help="the elm-mlx to run; default: that of this Python")
    asked = parser.parse_args()
    program = [asked.program] if asked.program else [sys.executable, "-m", "elm_mlx"]
    with tempfile.TemporaryDirectory() as folder:
        report = Report(asked.short, program, Path(folder))
        do_all(report)
    failed = [step["name"] for step in report.steps if "error" in step]
    whole = {"schema": SCHEMA, "short": asked.short, "machine": facts(), "failed": failed, "steps": report.steps}
    asked.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(f"{len(report.steps) - len(failed)} of {len(report.steps)} steps done, in {asked.out}. {SENT}")
    sys.exit(1 if failed else 0)


def do_all(report: Report) -> None:
    """The steps, in the order in which a failure tells most."""
    report.step("doctor", lambda: report.json("doctor", "--json"))
    report.step("tests on Metal", lambda: metal_tests(report))
    report.step("the demo's story", lambda: golden(report))
    for name in MODELS:
        report.step(f"pull {name}", lambda name=name: pull(report, name))
        report.step(f"answer of {name}", lambda name=name: answer(report, name))
    report.step("convert to 4 bits", lambda: convert(report))
    report.step("verify", lambda: verify(report))
    # OpenELM's context ends at 2,048 tokens, so what stands at 8,192 is its shape with random weights.
    measured = [("--random", "openelm-270m", "--bits", "4"), ("--model", LLAMA)]
    for model in [("--random", "llama-16x64")] if report.short else measured:
        for submit in ("early", "late"):
            report.step(f"bench {model[1]}, {submit}", lambda s=submit, m=model: bench(report, s, *m))
    report.step("serve and curl", lambda: serve(report))


if __name__ == "__main__":
    main()
