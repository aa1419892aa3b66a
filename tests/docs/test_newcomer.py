"""A newcomer's hour at a terminal, in a fresh environment: install, generate, pull, chat, convert, serve, ask the
server with curl and OpenAI's package, bench, remove. All is typed into bash on a pty, and recorded; what the documents
show as transcripts has to be what is seen.

The package index is the machine's own, and the hub is the stand-in. Run: pytest -m soak tests/docs -s
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from helpers import checkpoints
from helpers.documents.page import ROOT, Page
from helpers.documents.run import free_port
from helpers.documents.scenery import TOKEN, Scenery
from helpers.documents.transcript import Turn, agrees, turns
from helpers.fake_hub import FakeHub

PROMPT = "newcomer$ "
PATIENCE_S = 300  # with pip, on a busy machine
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|[^\n]*\r(?!\n)|\r")
READY = "llama-3.2-1b-instruct"
OPENAI = """
from openai import OpenAI
client = OpenAI(base_url="http://127.0.0.1:{port}/v1", api_key="none")
answer = client.chat.completions.create(model="{model}", max_tokens=8, messages=[{{"role": "user", "content": "Hi"}}])
print("tokens:", answer.usage.completion_tokens)
"""


class Terminal:
    """Bash on a pty, with what was typed and seen, and how long each line took."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self.record: list[tuple[str, str, float]] = []
        self.home = Path(environment["HOME"])
        self.bash = pexpect.spawn(
            "bash", ["--noprofile", "--norc", "-i"], cwd=place, env=environment, encoding="utf-8", echo=False,
            timeout=PATIENCE_S, dimensions=(50, 240),
        )  # fmt: skip
        self.bash.sendline(f"PS1='{PROMPT}' PS2=; bind 'set enable-bracketed-paste off'; stty -echo")
        self.bash.expect(re.escape(PROMPT))
        self.type("true")

    def type(self, line: str, code: int = 0, answers: tuple[str, ...] = ()) -> str:
        """Types a line, and `answers` at the prompts "> " that it shows; returns what is seen until bash asks again."""
        begun, seen = time.monotonic(), ""
        self.bash.sendline(line)
        for answer in answers:
            self.bash.expect("> ")
            seen += self.bash.before
            self.bash.sendline(answer)
        self.bash.expect_exact(PROMPT)
        seen = CONTROL.sub("", seen + self.bash.before)
        self.record.append((line, seen, time.monotonic() - begun))
        self.bash.sendline("echo code=$?")
        self.bash.expect(r"code=(\d+)")
        ended = int(self.bash.match[1])
        self.bash.expect_exact(PROMPT)
        assert ended == code, f"{line} ended with {ended}:\n{seen}"
        return seen

    def compare(self, turn: Turn) -> None:
        """Types a command of a document's transcript, and compares what is seen."""
        seen = self.type(turn.command, answers=tuple(turn.typed.splitlines()))
        assert agrees(turn.printed, seen, self.home), f"{turn.command}\nshows now:\n{seen}"


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A new person's variables, and a hub with a model."""
    scenery = Scenery(tmp_path / "scenery")
    scenery.folder.mkdir()
    home = tmp_path / "home"
    home.mkdir()
    with FakeHub() as hub:
        scenery.publish(hub, READY)
        (home / "tokenizer.model").write_bytes(scenery.tokenizer().read_bytes())
        checkpoints.write(home / "OpenELM-270M", checkpoints.OPENELM, tokenizer=False)
        kept = {name: value for name, value in os.environ.items() if re.match(r"PIP_|LANG|LC_|SSL_", name)}
        path = {"PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin", "TERM": "xterm"}
        named = {"HOME": str(home), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "PORT": str(free_port()),
                 "VIRTUAL_ENV_DISABLE_PROMPT": "1"}  # fmt: skip
        yield kept | path | named


@pytest.mark.soak
def test_a_newcomers_hour(environment: dict[str, str], tmp_path: Path) -> None:
    home, port = Path(environment["HOME"]), environment["PORT"]
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, home / "elm-mlx"], check=True)
    terminal = Terminal(home / "elm-mlx", environment)
    try:
        install_and_first_story(terminal)
        pull_chat_convert(terminal)
        serve_and_ask(terminal, port)
        terminal.type("elm-mlx bench --random llama-16x64 -p 8 -n 4 -r 1 --cpu-policy plain")
        removed = terminal.type(f"elm-mlx rm {READY} --yes")
        assert "Removed ~/" in removed.replace(str(home), "~")
        terminal.type("deactivate && rm -rf .venv && test ! -e .venv")
    finally:
        told = "".join(f"[{took:5.1f} s] $ {line}\n{seen}\n" for line, seen, took in terminal.record)
        (tmp_path / "hour.txt").write_text(told, encoding="utf-8")
        print(told)
        terminal.bash.close(force=True)


def install_and_first_story(terminal: Terminal) -> None:
    """The README's first command, and its transcript."""
    page = Page(ROOT / "README.md")
    command = next(block.text for block in page.blocks if block.reason).strip()
    story = next(block for block in page.blocks if block.is_transcript)
    assert "there lived a good-natured pirate" in terminal.type(command)
    terminal.type("source .venv/bin/activate")
    for turn in turns(story.text):
        terminal.compare(turn)
    terminal.type("elm-mlx doctor")


def pull_chat_convert(terminal: Terminal) -> None:
    """Models: by name, in a chat, and from a directory."""
    assert READY in terminal.type("elm-mlx list")
    terminal.type(f"elm-mlx pull {READY}")
    terminal.type(f"HF_HUB_OFFLINE=1 elm-mlx generate --model {READY} -p Hello --max-tokens 8")
    terminal.type(f"elm-mlx chat --model {READY} --max-tokens 8", answers=("Hello", "/stats", "/exit"))
    for block in Page(ROOT / "docs" / "chat.md").blocks:
        if block.is_transcript:
            for turn in turns(block.text):
                terminal.compare(turn)
    terminal.type("cd ~ && elm-mlx convert OpenELM-270M --tokenizer tokenizer.model --bits 4")
    terminal.type("elm-mlx verify OpenELM-270M-mlx-4bit --against OpenELM-270M --max-kl 9")
    terminal.type("elm-mlx generate --model OpenELM-270M-mlx-4bit -p Hello --max-tokens 8; cd elm-mlx")


def serve_and_ask(terminal: Terminal, port: str) -> None:
    """A server in the background, curl, OpenAI's package, and its end."""
    terminal.type("pip install -q -e '.[cpu,serve]' openai")
    terminal.type(f"elm-mlx serve --model {READY} --port {port} 2> ~/serve.log & server=$!")
    wait = f"for i in $(seq 300); do curl -sf http://127.0.0.1:{port}/health > ~/up && break; sleep 0.1; done; cat ~/up"
    terminal.type(wait)
    body = f'{{"model": "{READY}", "prompt": "Once upon a time", "max_tokens": 8}}'
    url = f"http://127.0.0.1:{port}/v1/completions"
    assert '"completion_tokens":8' in terminal.type(f"curl -sS {url} -H 'Content-Type: application/json' -d '{body}'")
    program = terminal.home / "ask.py"
    program.write_text(OPENAI.format(port=port, model=READY), encoding="utf-8")
    assert "tokens: 8" in terminal.type("python ~/ask.py")
    terminal.type("kill -TERM $server; wait $server; tail -2 ~/serve.log")
