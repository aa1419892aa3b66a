"""Markdown that a model writes: the same in any pieces, in linear time, and never a program."""

from __future__ import annotations

import json

import pytest
from helpers.browser import Page
from helpers.page_server import Script
from helpers.page_steps import TREES, asked, last_answer

pytestmark = pytest.mark.slow
HOSTILE = """<script>window.struck = 1</script> <img src=x onerror="window.struck = 2">

[press](javascript:window.struck=3) [more](data:text/html,<script>1</script>) ![seen](http://evil.example/pixel.png)

<iframe src="http://evil.example/"></iframe> <style>body { display: none }</style> [plain](https://example.org/)

```html"><img src=x onerror=window.struck=4>
</code></pre><script>window.struck = 5</script>
```

| <b onclick="window.struck = 6">x</b> | [y](vbscript:z) |
|--|--|
| <svg onload="window.struck = 7"> | a |
"""


def test_markdown_is_the_same_in_any_pieces(page: Page, script: Script) -> None:
    script.replies = {
        str(size): [TREES[at : at + size] for at in range(0, len(TREES), size)] for size in (1, 3, 10_000)
    }
    shown = []
    for size in script.replies:
        page.click("#new")
        asked(page, size)
        shown.append(page.js("document.querySelector('.assistant .text').innerHTML"))
    assert shown[0] == shown[1] == shown[2]
    for tag in (
        "<h4>Elms</h4>",
        "<em>deciduous</em>",
        "<strong>Ulmus</strong>",
        "<code>Ulmus glabra</code>",
        "<ol",
        "<td",
    ):
        assert tag in shown[0]
    assert page.js("document.querySelector('.text a').href") == "https://example.org/white-elm"
    assert page.js("document.querySelector('pre code').textContent").endswith("    return 12 * branches\n")
    assert page.js("document.querySelectorAll('.text li li').length") == 1


def test_hostile_markdown_runs_nothing_and_loads_nothing(page: Page, script: Script) -> None:
    script.replies = {"attack": [HOSTILE[at : at + 5] for at in range(0, len(HOSTILE), 5)]}
    page.js(
        "document.addEventListener('securitypolicyviolation', (event) => (window.violated = event.violatedDirective))"
    )
    asked(page, "attack")
    page.js("new Promise((done) => setTimeout(done, 100))")
    assert page.js("window.struck ?? window.violated ?? 'nothing'") == "nothing"
    forbidden = "script, img, iframe, style, svg, object, [onclick], [onerror], [onload]"
    assert page.js(f"document.querySelectorAll('#turns :is({forbidden})').length") == 0
    links = page.js("[...document.querySelectorAll('#turns a')].map((link) => [link.protocol, link.rel])")
    assert {protocol for protocol, _ in links} <= {"http:", "https:"}
    assert all("noopener" in rel for _, rel in links)
    assert "<script>window.struck = 1</script>" in last_answer(page)


@pytest.mark.parametrize(
    "unit",
    [
        "word ",
        "*a **b _c ",
        "`" * 3 + " `` ` ",
        "[x](",
        "| a | b ",
        "- a\n",
        "  - a\n",
        "> > ",
        "a|b\n-|-\n",
        "\\",
        "<b>",
        "# ",
    ],
)
def test_twice_the_answer_is_twice_the_work(page: Page, unit: str) -> None:
    """The work is counted in searches of the text, for answers that come in pieces of equal length."""
    count = f"""(async (unit) => {{
        const {{ Markdown }} = await import('/page/markdown.js');
        const exec = RegExp.prototype.exec;
        const work = (length) => {{
          const markdown = new Markdown(document.createElement('div'));
          const text = unit.repeat(Math.ceil(length / unit.length));
          let searches = 0;
          RegExp.prototype.exec = function (text) {{ searches += 1; return exec.call(this, text); }};
          for (let at = 0; at < text.length; at += 400) markdown.add(text.slice(at, at + 400));
          markdown.end();
          RegExp.prototype.exec = exec;
          return searches;
        }};
        return [work(50_000), work(100_000)];
      }})({json.dumps(unit)})"""
    once, twice = page.js(count)
    assert once > 100
    assert twice < 2.3 * once
