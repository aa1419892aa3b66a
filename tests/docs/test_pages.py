"""What the documents say is done: blocks of sh and python run in order, a page in a fresh directory, against the
stand-in for the hub, and transcripts are compared with what is printed now. (helpers/documents has the rules.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.documents.page import DATA, ROOT, RUN, Page, all_pages
from helpers.documents.scenery import FILES, NEW_MACHINE, VALUES

from elm_mlx.library.names import known_models

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
