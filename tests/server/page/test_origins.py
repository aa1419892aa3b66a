"""What the browser refuses to the page, and to pages of others."""

from __future__ import annotations

import json

import pytest
from helpers.browser import Browser, Page
from helpers.page_server import Script, serving

pytestmark = pytest.mark.slow


def test_the_policy_stops_what_the_page_itself_would_never_do(page: Page) -> None:
    page.js(
        "document.addEventListener('securitypolicyviolation', (event) => (window.violated = event.violatedDirective))"
    )
    assert page.js(
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'set' } catch { return 'refused' } })()"
    ) == ("refused")
    assert page.js("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    page.wait("window.violated === 'connect-src'")
    page.problems.clear()


def test_the_page_of_another_origin_gets_nothing(browser: Browser, url: str, script: Script) -> None:
    """A page at another port is another origin: the browser asks on its behalf, and gives it no answer."""
    script.clear()
    with serving(Script()) as other:
        page = browser.page()
        page.call("Page.setBypassCSP", enabled=True)  # the attacker's own page has no policy
        page.open(other)
        for path, options in (("/v1/models", {}), ("/v1/chat/completions", {"method": "POST", "body": "{}"})):
            fetched = f"fetch({json.dumps(url + path)}, {json.dumps(options)}).then(() => 'read', () => 'refused')"
            assert page.js(fetched) == "refused"
        assert page.js(f"import({json.dumps(url + '/page/main.js')}).then(() => 'read', () => 'refused')") == "refused"
        page.js(f"(window.frame = document.createElement('iframe')).src = {json.dumps(url)}")
        page.js("new Promise((done) => { frame.onload = () => done(); document.body.append(frame) })")
        assert page.js(
            "(() => { try { return frame.contentDocument?.title ?? 'hidden' } catch { return 'hidden' } })()"
        ) == ("hidden")
        assert script.bodies == []
        page.call("Page.close")
