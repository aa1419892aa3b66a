"""What tests do on the page, and what they ask of it."""

from __future__ import annotations

from helpers.browser import Page

ANSWERED = "document.querySelector('#turns > li:last-child.assistant[aria-busy=\"false\"]')"
TREES = """## Elms

Elms are *deciduous* trees of the genus **Ulmus**. Three of them grow in Europe:

1. the wych elm, `Ulmus glabra`
2. the field elm
   - also in North Africa
3. the [European white elm](https://example.org/white-elm)

| Elm | Height | Years |
|:----|-------:|------:|
| wych | 40 m | 400 |
| field | 30 m | 300 |

```python
def leaves(branches: int) -> int:
    return 12 * branches
```
"""


def ask(page: Page, question: str) -> None:
    page.js("document.querySelector('#question').focus()")
    page.write(question)
    page.press("Enter")


def asked(page: Page, question: str) -> str:
    """The text of the answer, once it is complete."""
    before = page.js("document.querySelectorAll('#turns > li').length")
    ask(page, question)
    page.wait(f"{ANSWERED} && (document.querySelectorAll('#turns > li').length >= 2) && {before} !== null")
    return last_answer(page)


def last_answer(page: Page) -> str:
    return page.text("#turns > li:last-child .text").strip()
