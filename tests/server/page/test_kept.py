"""What the browser keeps of conversations."""

from __future__ import annotations

import json

import pytest
from helpers.browser import Page
from helpers.page_server import Script
from helpers.page_steps import ask, asked, last_answer

pytestmark = pytest.mark.slow


def test_conversations_outlive_a_reload_and_a_half_answer_does_too(page: Page, script: Script, url: str) -> None:
    asked(page, "remember me")
    script.replies = {"more": ["half ", "wait"]}
    ask(page, "more")
    page.wait("document.querySelectorAll('.assistant .text')[1]?.innerText.includes('half')")
    page.open(f"{url}/?again")
    page.wait("document.querySelectorAll('.assistant').length === 2")
    assert "You said: remember me" in page.text("#turns")
    assert last_answer(page) == "half"
    assert page.text("#list .title") == "remember me"


def test_conversations_are_renamed_exported_and_deleted_with_a_way_back(page: Page) -> None:
    asked(page, "an old name")
    page.click("#list .actions button:nth-child(1)")
    page.write("a new name")
    page.press("Enter")
    page.wait("document.querySelector('#list .title')?.innerText === 'a new name'")
    page.js("URL.createObjectURL = (blob) => { window.saved = blob; return 'blob:none' }")
    page.js("HTMLAnchorElement.prototype.click = function () { window.savedAs = this.download }")
    page.click("#list .actions button:nth-child(2)")
    saved = json.loads(page.js("window.saved.text()"))
    assert saved["title"] == "a new name"
    assert [node["content"].strip() for node in saved["nodes"]] == ["an old name", "You said: an old name"]
    assert page.js("window.savedAs").endswith(".json")
    page.click("#list .actions button:nth-child(3)")
    page.wait("!document.querySelector('#list .title')")
    page.click("#notice button")
    page.wait("document.querySelector('#list .title')?.innerText === 'a new name'")
    assert last_answer(page) == "You said: an old name"


def test_old_conversations_go_when_the_browser_is_full(page: Page) -> None:
    node = {"id": "a", "parent": None, "role": "user", "content": "x" * 3_999_000}
    old = {"id": "old", "title": "the oldest", "changed": 1, "nodes": [node], "head": "a"}
    page.js(f"localStorage.setItem('elm-mlx.conversation.old', {json.dumps(json.dumps(old))})")
    asked(page, "y" * 2000)
    page.wait("document.querySelector('#notice').innerText.includes('the oldest')")
    assert page.js("document.querySelectorAll('#list .title').length") == 1


def test_a_text_that_was_just_typed_outlives_going_elsewhere(page: Page) -> None:
    page.click("[name=mode][value=completion] + span")
    page.wait("document.activeElement.id === 'text'")
    page.write("A first text")
    page.click("#new")
    page.wait("document.querySelector('#text').value === ''")
    page.click("#list .title")
    page.wait("document.querySelector('#text').value === 'A first text'")


def test_a_conversation_that_is_deleted_while_it_is_answered_stays_away(page: Page, script: Script) -> None:
    script.replies = {"endless": ["Never ", "wait"]}
    ask(page, "endless")
    page.wait("document.querySelector('.assistant .text')?.innerText.includes('Never')")
    page.click("#list .actions button:nth-child(3)")
    page.wait("!document.querySelector('#list .title')")
    asked(page, "another")
    assert page.js("[...document.querySelectorAll('#list .title')].map((title) => title.innerText)") == ["another"]
