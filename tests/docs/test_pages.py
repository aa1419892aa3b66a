"""What the documents say is done: blocks of sh and python run in order, a page in a fresh directory, against the
stand-in for the hub, and transcripts are compared with what is printed now. (helpers/documents has the rules.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import pytest
from helpers.documents.page import DATA, ROOT, RUN, Page, all_pages
from helpers.documents.scenery import FILES, NEW_MACHINE, VALUES

from elm_mlx.cli.group import COMMANDS, cli
from elm_mlx.library.names import known_models

# Of our program as a whole, and of others that the text speaks of: pip, pytest, llm, Briefcase, mlx-lm.
FOREIGN = set(
    "--version --index-url --durations --platform --functions --adhoc-sign --data-path --sensitivities".split()
)


@cache
def all_flags() -> set[str]:
    """The flags of all commands."""
    return {flag for name in COMMANDS for flag in flags_of(name)} | FOREIGN


@cache
def flags_of(name: str) -> set[str]:
    """The flags of one command."""
    command = cli.get_command(click.Context(cli), name)
    assert command
    return {flag for option in command.params for flag in option.opts} | {"--help"}


PAGES = all_pages()
NAMES = [page.name for page in PAGES if any(block.is_run for block in page.blocks)]
QUICK = {"docs/structure.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_run_or_says_why_not(page: Page) -> None:
    for block in page.blocks:
        where = f"{page.name}:{block.line}"
        known = block.kind in RUN or block.kind in DATA or block.is_transcript
        assert known or block.reason, f"{where}: a block of {block.kind!r} is neither run, nor data, nor marked"
        assert not block.reason or len(block.reason) > 20, f"{where}: why is it not run?"
        assert set(block.given) <= {*FILES, *VALUES, NEW_MACHINE, *known_models()}, (
            f"{where}: nothing makes {block.given}"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_anchor_leads_somewhere(page: Page) -> None:
    for link in page.links:
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, part = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), f"{page.name} links to {link}"
        assert not part or part in Page(target).anchors, f"{page.name} links to {link}, which has no such heading"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_a_page_does_what_it_says(name: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-m", "helpers.documents.run", name, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, check=False,
    )  # fmt: skip
    print(done.stdout.decode())  # what was not run, and why
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_flag_in_a_sentence_exists(page: Page) -> None:
    """What stands between backquotes in the text; blocks are run."""
    for said in page.inline:
        if command := re.match(r"(?:[A-Z_]+=\S+ )*elm-mlx ([a-z]+)", said):
            assert command[1] in COMMANDS, f"{page.name}: {said}"
        ours = said.startswith("elm-mlx ") or not re.match(r"[a-z]", said)
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", said) if ours else []:
            taken = flags_of(command[1]) if command and command[1] != "launch" else all_flags()
            assert flag in taken, f"{page.name}: {said}"
