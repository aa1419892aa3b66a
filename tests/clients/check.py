"""Runs other people's clients against our server, each as its users have it, and prints what worked.

    python tests/clients/check.py [--environments FOLDER] [--json FILE]

Makes an environment of their own, by default in a temporary folder, with the extra `clients` of pyproject.toml:
litellm, langchain-openai and llm; another one for aider, which wants old versions of the same packages; and one with
llm and this checkout side by side, where llm finds our plugin. Starts
`elm-mlx serve` with the demo and a tiny Llama of random weights, which can call tools and keep a form, though what it
says means nothing. Then each `with_*.py` beside this file runs in its environment and reports a line for each thing
that it tried. Exits with 1 if one of them failed. Needs the package index once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE_S = 300
AIDER = ["aider-chat>=0.86,<1"]  # for Python before 3.13


def environments(folder: Path) -> dict[str, Path]:
    """The Python of each client's environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    most = environment(folder / "clients", project["optional-dependencies"]["clients"])
    plugin = environment(folder / "plugin", ["-e", f"{ROOT}[cpu,llm]"])
    aider = environment(folder / "aider", AIDER)
    return dict.fromkeys(("langchain", "litellm", "llm"), most) | {"aider": aider, "llm_plugin": plugin}


def environment(folder: Path, wanted: list[str]) -> Path:
    """An environment with what is wanted; returns its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted], check=True)
    return python


def tiny_llama(folder: Path) -> Path:
    """A Llama of random weights with a template for tools."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers import chat_templates, scripts

    return scripts.write(folder / "tiny-llama", chat_templates.LLAMA_31)


def tried(python: Path, script: Path, url: str, home: Path) -> list[dict[str, Any]]:
    """What one client's script reports; one line of its own if it ended with an error. `home` holds the tiny Llama."""
    surroundings = {"PATH": os.environ["PATH"], "HOME": str(home), "LLM_USER_PATH": str(home / script.stem)}
    surroundings["TINY_LLAMA"] = str(home / "tiny-llama")
    command = [python, script, url, "tiny-llama", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=surroundings, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"tried"')]
    if done.returncode:
        lines.append({"tried": "the script", "worked": False, "seen": done.stderr.strip().splitlines()[-1:]})
    return lines


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--environments", type=Path, help="where the clients are, or are to be installed")
    options.add_argument("--json", type=Path, help="a file for what was seen")
    given = options.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pythons = environments(given.environments or folder / "environments")
        model = tiny_llama(folder)
        from helpers.served import serving

        served = stack.enter_context(serving("--model", model, "--model", "demo"))
        seen = {client: tried(python, HERE / f"with_{client}.py", served.url, folder)
                for client, python in sorted(pythons.items())}  # fmt: skip
    for client, lines in seen.items():
        for line in lines:
            print(f"{client:<12} {'yes' if line['worked'] else 'NO':<4} {line['tried']:<28} {line['seen']}")
    if given.json:
        given.json.write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")
    sys.exit(not all(line["worked"] for lines in seen.values() for line in lines))


if __name__ == "__main__":
    main()
