"""A server with the page, a browser, and the page in a tab of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.browser import Browser, Page
from helpers.page_server import Script, serving


@pytest.fixture(scope="package")
def script() -> Script:
    """How the server answers; a test changes it, and `page` begins with an empty one."""
    return Script()


@pytest.fixture(scope="package")
def url(script: Script) -> Iterator[str]:
    """The address of a server that answers as `script` says."""
    with serving(script) as url:
        yield url


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium, or the sentence that says what to install."""
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, url: str, script: Script) -> Iterator[Page]:
    """The page in a tab of its own, with its models loaded. Nothing may have gone wrong in it, or gone elsewhere."""
    script.clear()
    page = browser.page()
    page.resize(1200, 800)
    page.open(url)
    page.wait("document.querySelector('#model').options.length")
    yield page
    assert not page.problems
    assert all(request.startswith((url, "blob:")) for request in page.requests), page.requests
    page.call("Page.close")
