"""aider, the command, as its users have it: `openai/NAME` with OPENAI_API_BASE."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from trying import CHAT, URL, expected, trying

QUIET = ("--no-git", "--yes-always", "--no-check-update", "--no-show-model-warnings", "--analytics-disable",
         "--no-show-release-notes")  # fmt: skip


def aider(*options: str) -> str:
    """What the command prints for a message."""
    command = [Path(sys.executable).with_name("aider"), "--model", f"openai/{CHAT}", "--message", "Hi", *QUIET]
    surroundings = os.environ | {"OPENAI_API_BASE": URL, "OPENAI_API_KEY": "unused"}
    home = os.environ["HOME"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=200, cwd=home,
                          env=surroundings, stdin=subprocess.DEVNULL)  # fmt: skip
    return done.stdout + done.stderr


def answered(*options: str) -> str:
    text = aider(*options)
    usage = re.search(r"Tokens: .* sent, .* received", text)
    return expected(usage, text[-500:]) and usage[0]


trying("chat, streamed", answered)
trying("chat, whole", lambda: answered("--no-stream"))
