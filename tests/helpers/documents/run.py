"""Does what one page says, as its reader would: `python -m helpers.documents.run PAGE FOLDER`, in tests/ on the path.

All happens in FOLDER, where the reader's home is. Blocks run there, in order. The hub is a stand-in with
tiny models under the published names. `elm-mlx` runs in this process where a line is nothing else; other lines run in
bash. Servers run beside the page until it ends, on a free port in place of 8080.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from unittest import mock

from helpers import command_line, machine
from helpers.documents.page import ROOT, Block, Page
from helpers.documents.scenery import FILES, NEW_MACHINE, TOKEN, VALUES, Scenery
from helpers.documents.transcript import agrees, turns
from helpers.fake_hub import FakeHub, living_in

from elm_mlx import cli
from elm_mlx.convert.calibrate import options as calibration
from elm_mlx.library import names as registry

ELSEWHERE = r"[|&;<>$`*(){}]"  # what bash does with a line, and shlex does not
DONE = {  # what holds for every reader by now
    "source .venv/bin/activate": "elm-mlx is on the path",
    "pip install": "all extras of the tests are installed",
}
PATIENCE_S = 120


class Reader:
    """One who follows a page to its end."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page, self.home, self.scenery = page, folder / "home", Scenery(folder / "scenery")
        for made in (self.home, self.scenery.folder):
            made.mkdir(parents=True)
        module = ModuleType("page")  # classes that a page defines look for their module
        sys.modules["page"], self.names = module, vars(module)
        self.port = free_port()
        self.servers: list[subprocess.Popen[bytes]] = []

    def follow(self) -> None:
        """Does what every block says."""
        with self.world():
            for block in self.page.blocks:
                where = f"{self.page.name}:{block.line}"
                if not block.is_run:
                    print(f"{where}: {f'not run: {block.reason}' if block.reason else f'data, {block.kind}'}")
                    continue
                print(f"{where}: {block.kind or 'transcript'}", flush=True)
                self.give(block)
                self.take(block, where)

    def take(self, block: Block, where: str) -> None:
        """Runs a block."""
        text = block.text.replace(":8080", f":{self.port}")
        if block.is_transcript:
            self.compare(text)
        elif block.kind == "sh":
            for line in lines_of(text):
                self.shell(line)
        else:
            self.python(text, where)

    def give(self, block: Block) -> None:
        """Makes what a block says is given."""
        for thing in block.given:
            place = Path(os.path.expanduser(thing))  # noqa: PTH111, which finds HOME
            if thing == NEW_MACHINE:
                shutil.rmtree(self.home / ".cache")
            elif thing in VALUES:
                exec(VALUES[thing], self.names)
            elif thing in registry.known_models():
                run_here(["pull", thing], "")
            elif not place.exists():
                FILES[thing](self.scenery, place)

    def python(self, code: str, where: str) -> None:
        """Runs Python, and the coroutine `main` that it may define."""
        known = set(self.names)
        exec(compile(code, where, "exec", dont_inherit=True), self.names)
        main = self.names.get("main")
        if "main" not in known and inspect.iscoroutinefunction(main):
            asyncio.run(main())

    def shell(self, line: str, typed: str = "", code: int | None = 0) -> str:
        """Runs one line of a shell; returns what it prints."""
        if any(line.startswith(done) for done in DONE):
            return ""
        words = shlex.split(line, comments=True)
        if words[0] == "cd":
            os.chdir(os.path.expanduser(words[1]))  # noqa: PTH111
            return ""
        if is_server(words):
            return self.serve(line)
        alone = words[0] == "elm-mlx" and not re.search(ELSEWHERE, re.sub(r"'[^']*'|#.*", "", line))
        ended, printed = run_here(words[1:], typed) if alone else run_in_bash(line, typed)
        assert code is None or ended == code, f"{line}\nended with {ended}:\n{printed}"
        return printed

    def compare(self, text: str) -> None:
        """Runs the commands of a transcript and compares what they print."""
        for turn in turns(text):
            printed = self.shell(turn.command, turn.typed, code=None)
            assert agrees(turn.printed, printed, self.home), f"$ {turn.command}\nprints now:\n{printed}"

    def serve(self, line: str) -> str:
        """Starts a server, in the place of an earlier one, and waits until it answers."""
        self.stop_servers()
        self.servers.append(subprocess.Popen(["bash", "-c", f"exec {line}"], stdin=subprocess.DEVNULL))
        if "--uds" not in line:
            wait_for(f"http://127.0.0.1:{self.port}/health", self.servers[-1])
        else:
            time.sleep(3)
        return ""

    def stop_servers(self) -> None:
        """Ends what runs beside the page."""
        for server in self.servers:
            server.terminate()
            server.wait(PATIENCE_S)
        self.servers.clear()

    @contextmanager
    def world(self) -> Iterator[None]:
        """The reader's home, path and hub, until the block ends."""
        with ExitStack() as stack:
            hub = stack.enter_context(FakeHub())
            self.scenery.publish(hub, self.page.text)
            sha256 = hashlib.sha256(self.scenery.tokenizer().read_bytes()).hexdigest()
            mirrors = list(registry.TOKENIZER_MIRRORS[:1])
            stack.enter_context(mock.patch.multiple(registry, TOKENIZER_SHA256=sha256, TOKENIZER_MIRRORS=mirrors))
            environment = hub.environment(self.home / ".cache/huggingface") | {
                "HOME": str(self.home), "PATH": f"{self.programs()}:{os.environ['PATH']}", "HF_TOKEN": TOKEN,
                "HF_HUB_DISABLE_XET": "1",
                "SHA256": sha256, "MIRRORS": json.dumps(mirrors), "ELM_MLX_PORT": str(self.port),
                "ELM_MLX_BLAS": "reference", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            }  # fmt: skip
            stack.enter_context(mock.patch.object(calibration, "TOKENS", 4 * calibration.WINDOW))  # not half a minute
            stack.enter_context(living_in(environment))
            os.chdir(self.home)
            stack.callback(os.chdir, ROOT)
            stack.callback(self.stop_servers)
            yield

    def programs(self) -> Path:
        """A folder with the commands that an installation has."""
        folder = self.home / "bin"
        folder.mkdir()
        for name, code in {"elm-mlx": machine.PROGRAM}.items():
            path = folder / name
            path.write_text(f"#!{sys.executable}\n{code}", encoding="utf-8")
            path.chmod(0o755)
        for name in ("python", "python3"):
            (folder / name).symlink_to(sys.executable)
        return folder


def lines_of(text: str) -> list[str]:
    """The lines of a shell's block, joined where they go on, without comments and empty ones."""
    joined = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in joined if line.strip() and not line.strip().startswith("#")]


def is_server(words: list[str]) -> bool:
    """Whether a command goes on until it is stopped."""
    return words[:2] == ["elm-mlx", "serve"] and not {"--connect", "--stdio"} & set(words)


def run_here(arguments: list[str], typed: str) -> tuple[int, str]:
    """Runs a command line of elm-mlx in this process: its exit code, and all that it prints."""
    import io

    printed = command_line.recorder(errors="replace")
    words = [os.path.expanduser(word) for word in arguments]  # noqa: PTH111
    given = io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf-8")
    with mock.patch.object(sys, "stdin", given), redirect_stdout(printed), redirect_stderr(printed):
        code = cli.run(words)
    return code, command_line.written(printed)


def run_in_bash(line: str, typed: str) -> tuple[int, str]:
    """Runs a line of a shell in a process of its own."""
    done = subprocess.run(
        ["bash", "-c", line], input=typed.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE_S
    )
    return done.returncode, done.stdout.decode()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Waits until a server answers."""
    given_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE_S).read()
            return
        except OSError:
            assert process.poll() is None, f"the server ended with {process.returncode}"
            assert time.monotonic() < given_up, "the server did not answer"
            time.sleep(0.05)


def main() -> None:
    """Follows a page, and says on stdout what was run and what was not."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    try:
        Reader(Page(ROOT / sys.argv[1]), Path(sys.argv[2])).follow()
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        sys.exit(1)


if __name__ == "__main__":
    main()
