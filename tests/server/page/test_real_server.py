"""The page with the server that it belongs to: the demo, which writes on, and a tiny Llama, which chats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.browser import Browser
from helpers.page_steps import ANSWERED, ask
from helpers.served import serving, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_a_person_writes_on_chats_and_stops(browser: Browser, llama: Path) -> None:
    """With a key, which the page asks for itself: its files are public, its requests are not."""
    with serving("--model", "demo", "--model", llama, environment={"ELM_MLX_API_KEY": "sesame"}) as served:
        served.headers["authorization"] = "Bearer sesame"
        page = browser.page()
        page.open(f"http://127.0.0.1:{served.port}")
        page.wait("document.querySelector('#key').open")
        page.write("sesame")
        page.press("Enter")
        page.wait("document.querySelector('#model').options.length && !document.querySelector('#completion').hidden")
        page.js("document.querySelector('#text').focus()")
        page.write("Once upon a time")
        page.press("Enter", "ctrl")
        page.wait("document.querySelector('#text').value.length > 40")
        page.press("Escape")
        page.wait("document.querySelector('#go-on').innerText === 'Write on'")
        page.js(f"document.querySelector('#model').value = {llama.name!r}")
        page.js("document.querySelector('[name=mode][value=chat]').click()")
        ask(page, "Hello")
        page.wait("document.querySelector('.assistant .text')?.innerText.length")  # random weights may end it early
        page.press("Escape")
        page.wait(ANSWERED)
        assert not page.js("document.querySelector('.error')?.innerText")
        until(lambda: not served.busy, "the end of all requests")
        assert all("401" in problem for problem in page.problems), page.problems
