"""Chatting on the page: answers that stream, stop and fail, other versions of them, settings and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers.browser import Browser, Page
from helpers.page_server import Script, refusal
from helpers.page_steps import ANSWERED, ask, asked, last_answer

pytestmark = pytest.mark.slow


def test_an_answer_appears_while_it_comes(page: Page, script: Script) -> None:
    script.replies = {"slow": ["One ", "two ", "wait", "three."]}
    ask(page, "slow")
    page.wait("document.querySelector('.assistant .text')?.innerText.includes('One two')")
    assert page.text("#send") == "Stop"
    script.go_on.set()
    page.wait(ANSWERED)
    assert last_answer(page) == "One two three."
    assert page.text("#send") == "Send"
    assert "3 tokens" in page.text(".assistant .actions")
    assert "103 of 4,096 tokens" in page.text("#context")
    assert script.bodies[0] == {
        "model": "chatty",
        "messages": [{"role": "user", "content": "slow"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("stop", [lambda page: page.press("Escape"), lambda page: page.click("#send")])
def test_stop_cancels_the_request_and_keeps_what_came(page: Page, script: Script, stop: Callable[[Page], None]) -> None:
    script.replies = {"endless": ["Never ", "wait", "seen"]}
    ask(page, "endless")
    page.wait("document.querySelector('.assistant .text')?.innerText.includes('Never')")
    stop(page)
    page.wait(ANSWERED)
    assert last_answer(page) == "Never"
    assert "stopped" in page.text(".assistant .actions")
    page.wait("true")
    for _ in range(500):
        if script.left:
            break
        page.js("new Promise((done) => setTimeout(done, 20))")
    assert "endless" in script.left[0]
    assert "You said: and now" in asked(page, "and now")
    assert [one["role"] for one in script.bodies[-1]["messages"]] == ["user", "assistant", "user"]


def test_regenerating_keeps_the_answer_before(page: Page, script: Script) -> None:
    script.replies = {"dice": ["four"]}
    assert asked(page, "dice") == "four"
    script.replies = {"dice": ["six"]}
    page.click(".assistant .actions button:nth-child(2)")
    page.wait("document.querySelector('.assistant .text').innerText.includes('six')")
    page.wait(ANSWERED)
    assert "2 of 2" in page.text(".assistant .actions")
    page.click("[aria-label='Earlier version']")
    assert last_answer(page) == "four"
    assert script.bodies[0] == script.bodies[1]


def test_an_edited_question_opens_a_branch_and_loses_none(page: Page, script: Script) -> None:
    asked(page, "first")
    asked(page, "second")
    page.click(".user .actions button")
    page.wait("document.activeElement.matches('.editor textarea')")
    page.js("document.activeElement.select()")
    page.write("other")
    page.press("Enter")
    page.wait("document.querySelectorAll('#turns > li').length === 2 && " + ANSWERED)
    assert last_answer(page) == "You said: other"
    assert [one["content"] for one in script.bodies[-1]["messages"]] == ["other"]
    page.click("[aria-label='Earlier version']")
    assert page.js("document.querySelectorAll('#turns > li').length") == 4
    assert last_answer(page) == "You said: second"


def test_settings_are_sent_and_belong_to_the_conversation(page: Page, script: Script) -> None:
    page.click("#open-settings")
    page.js("document.querySelector('#system').focus()")
    page.write("Be brief.")
    for name, value in (("temperature", "0.5"), ("top_k", "20"), ("seed", "0"), ("max_tokens", "7")):
        page.js(f"document.querySelector('[name={name}]').focus()")
        page.write(value)
    page.press("Escape")
    asked(page, "hello")
    body = script.bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {key: body[key] for key in ("temperature", "top_k", "seed", "max_tokens")} == {
        "temperature": 0.5,
        "top_k": 20,
        "seed": 0,
        "max_tokens": 7,
    }
    assert "top_p" not in body
    page.click("#new")
    asked(page, "again")
    assert script.bodies[1]["temperature"] == 0.5  # a new conversation begins with them


@pytest.mark.parametrize(
    "reply, sentence",
    [
        ([{"error": {"message": "The model has no more room.", "code": None}}], "The model has no more room."),
        (["begun ", {"error": {"message": "The engine failed.", "code": None}}], "The engine failed."),
        ([refusal(503, "The queue is full. Try again in 2 s.")], "The queue is full. Try again in 2 s."),
        ([refusal(400, "{temperature} is <b>wrong</b>")], "{temperature} is <b>wrong</b>"),
    ],
)
def test_an_error_is_the_servers_sentence_with_a_way_to_try_again(
    page: Page, script: Script, reply: list[Any], sentence: str
) -> None:
    script.replies = {"risky": reply}
    ask(page, "risky")
    page.wait("document.querySelector('.error')")
    assert page.text(".error p") == sentence
    script.replies = {"risky": ["fine"]}
    page.click(".error button")
    page.wait(ANSWERED + " && !document.querySelector('.error')")
    assert last_answer(page) == "fine"
    page.problems[:] = [one for one in page.problems if "status of" not in one]  # refusals are noted as they should


def test_a_server_with_a_key_is_asked_with_it_and_the_key_stays_in_the_tab(
    browser: Browser, url: str, script: Script
) -> None:
    script.clear()
    script.key = "open sesame"
    page = browser.page()
    page.open(url)
    page.wait("document.querySelector('#key').open")
    assert "needs an API key" in page.text("#key")
    page.write("open sesame")
    page.press("Enter")
    page.wait("document.querySelector('#model').options.length")
    assert asked(page, "hello") == "You said: hello"
    assert page.js("Object.values(localStorage).join()").find("sesame") == -1
    page.call("Page.close")


def test_a_base_model_gets_the_completion_pane(page: Page, script: Script) -> None:
    script.replies = {"Once": [" upon", " a", " time"]}
    page.js("document.querySelector('#model').value = 'base'")
    page.js("document.querySelector('#model').dispatchEvent(new Event('change'))")
    page.wait("!document.querySelector('#completion').hidden && document.querySelector('#chat').hidden")
    page.js("document.querySelector('#text').focus()")
    page.write("Once")
    page.press("Enter", "ctrl")
    page.wait("document.querySelector('#text').value === 'Once upon a time'")
    page.wait("document.querySelector('#go-on').innerText === 'Write on'")
    assert script.bodies[0]["prompt"] == "Once"
    assert script.bodies[0]["model"] == "base"
    assert "3 tokens" in page.text("#figures")
    script.replies = {"Once": [" more"]}
    page.click("#again")
    page.wait("document.querySelector('#text').value === 'Once more'")
    page.wait("!document.querySelector('#take-back').disabled")
    page.click("#take-back")
    assert page.js("document.querySelector('#text').value") == "Once"


def test_reasoning_is_folded_and_calls_are_text(page: Page, script: Script) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "rain", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"town": "<b>Ulm</b>"}'}}
    script.replies = {"think": [{"reasoning_content": "Well, "}, {"reasoning_content": "so."}, "Yes.",
                                {"tool_calls": [call]}, {"tool_calls": [more]}]}  # fmt: skip
    asked(page, "think")
    assert page.js("document.querySelector('details').open") is False
    assert page.js("document.querySelector('details p').textContent") == "Well, so."
    assert last_answer(page) == "Yes."
    assert page.text(".call") == 'Calls rain({"town": "<b>Ulm</b>"})'
    asked(page, "next")
    assert script.bodies[-1]["messages"][1] == {"role": "assistant", "content": "Yes."}


def test_a_model_that_turns_out_to_be_a_base_model_is_offered_its_pane(page: Page, script: Script) -> None:
    """What a model that is not loaded yet can do is not known."""
    script.models[0]["has_chat_template"] = False
    script.replies = {"hello": [refusal(400, "The model has no chat template.")]}
    ask(page, "hello")
    page.wait("document.querySelector('#notice').innerText.includes('chatty has no chat template')")
    page.click("#notice button")
    page.wait("!document.querySelector('#completion').hidden && document.activeElement.id === 'text'")
    page.problems.clear()  # the refusal
