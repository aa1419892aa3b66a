"""The anthropic package against the whole server, with answers that the tests write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from helpers.live_app import LiveApp
from helpers.talkers import CALL, CITY, MODEL, REASONER, Weather, two_talkers

WEATHER = {"name": "weather", "description": "Tells it.", "input_schema": CITY}
HI = {"role": "user", "content": "What is the weather?"}
ASKED: dict[str, Any] = {"model": MODEL, "messages": [HI], "max_tokens": 200}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApp]:
    with two_talkers(tmp_path_factory.mktemp("messages")) as app:
        yield app


@pytest.fixture(scope="module")
def client(app: LiveApp) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=app.url, api_key="unused", max_retries=0) as client:
        yield client


def read(usage: Any) -> int:
    """How many tokens a prompt has: those that were known are counted apart."""
    count: int = usage.input_tokens + usage.cache_read_input_tokens
    return count


def test_a_text_is_answered(app: LiveApp, client: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = app.say(monkeypatch, MODEL, "Rain, naïve 天気.<|eot_id|>")
    answer: Any = client.messages.create(**ASKED, system=[{"type": "text", "text": "Be brief."}])
    assert [block.text for block in answer.content] == ["Rain, naïve 天気."]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert read(answer.usage) == len(prompts[0])
    assert "Be brief." in app.shown(MODEL, prompts[0])


def test_a_stream_adds_up_to_the_answer(
    app: LiveApp, client: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = app.say(monkeypatch, MODEL, "Rain.<|eot_id|>")
    with client.messages.stream(**ASKED) as stream:
        assert "".join(stream.text_stream) == "Rain."
        answer = stream.get_final_message()
    assert answer.stop_reason == "end_turn"
    assert read(answer.usage) == len(prompts[0])
    first: Any = next(iter(client.messages.create(**ASKED, stream=True)))
    assert first.message.usage.input_tokens == len(prompts[0])


def test_async_clients_are_answered(app: LiveApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app.say(monkeypatch, MODEL, "Rain.<|eot_id|>")

    async def ask() -> list[Any]:
        async with anthropic.AsyncAnthropic(base_url=app.url, auth_token="unused", max_retries=0) as client:
            whole = await client.messages.create(**ASKED)
            async with client.messages.stream(**ASKED) as stream:
                return [whole, await stream.get_final_message()]

    assert [answer.content[0].text for answer in asyncio.run(ask())] == ["Rain."] * 2


@pytest.mark.parametrize("streamed, in_parallel", [(False, True), (True, False)])
def test_tools_are_called_and_their_results_are_read(
    app: LiveApp, client: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch, streamed: bool, in_parallel: bool
) -> None:
    app.say(monkeypatch, MODEL, f"{CALL.format('Oslo')}; {CALL.format('Zü')}<|eom_id|>")
    choice = {"type": "auto", "disable_parallel_tool_use": not in_parallel}
    asked = ASKED | {"tools": [WEATHER], "tool_choice": choice}
    if streamed:
        with client.messages.stream(**asked) as stream:
            answer: Any = stream.get_final_message()
    else:
        answer = client.messages.create(**asked)
    assert answer.stop_reason == "tool_use"
    assert [block.input["city"] for block in answer.content] == ["Oslo", "Zü"][: 1 + in_parallel]
    told = [{"type": "tool_result", "tool_use_id": block.id, "content": "Rain!"} for block in answer.content]
    said = {"role": "assistant", "content": [block.to_dict() for block in answer.content]}
    prompts = app.say(monkeypatch, MODEL, "So it is.<|eot_id|>")
    again: Any = client.messages.create(**asked | {"messages": [HI, said, {"role": "user", "content": told}]})
    assert again.content[0].text == "So it is."
    assert app.shown(MODEL, prompts[0]).count("Rain!") == len(answer.content)


@pytest.mark.parametrize("config, kinds", [({"type": "enabled", "budget_tokens": 1024}, ["thinking", "text"]),
                                           ({"type": "disabled"}, ["text"])])  # fmt: skip
def test_thinking_is_a_block_that_may_be_sent_back(
    app: LiveApp, client: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch, config: Any, kinds: list[str]
) -> None:
    app.say(monkeypatch, REASONER, "Hm, well.</think>\n\nRain.<|eot_id|>")
    asked = ASKED | {"model": REASONER, "thinking": config}
    with client.messages.stream(**asked) as stream:
        answer: Any = stream.get_final_message()
    assert [block.type for block in answer.content] == kinds
    assert answer.content[-1].text == "Rain."
    if kinds[0] == "thinking":
        assert answer.content[0].thinking == "Hm, well."
    said = {"role": "assistant", "content": [block.to_dict() for block in answer.content]}
    client.messages.create(**asked | {"messages": [HI, said, {"role": "user", "content": "Sure?"}]})


@pytest.mark.parametrize(
    "others, reason, sequence, text",
    [
        ({"max_tokens": 3}, "max_tokens", None, "Rain"),
        ({"stop_sequences": ["and", "or"]}, "stop_sequence", "or", "Rain "),
    ],
)
def test_an_answer_says_why_it_ended(
    app: LiveApp, client: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch, others: Any, reason: str,
    sequence: str | None, text: str,
) -> None:  # fmt: skip
    app.say(monkeypatch, MODEL, "Rain or snow.<|eot_id|>")
    answer: Any = client.messages.create(**ASKED | others)
    assert (answer.stop_reason, answer.stop_sequence, answer.content[0].text) == (reason, sequence, text)


def test_an_answer_goes_on_from_what_the_client_began(
    app: LiveApp, client: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = app.say(monkeypatch, MODEL, " rain.<|eot_id|>")
    answer: Any = client.messages.create(**ASKED | {"messages": [HI, {"role": "assistant", "content": "I see"}]})
    assert app.shown(MODEL, prompts[0]).endswith("I see")
    assert answer.content[0].text == " rain."


@pytest.mark.parametrize("others", [{}, {"system": "Be brief.", "tools": [WEATHER]}])
def test_tokens_are_counted_as_they_are_read(app: LiveApp, client: anthropic.Anthropic, others: Any) -> None:
    asked = {"model": MODEL, "messages": [HI], **others}
    counted = client.messages.count_tokens(**asked)
    assert counted.input_tokens == read(client.messages.create(**asked, max_tokens=1).usage)


def test_an_error_of_counting_names_its_request(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as refused:
        client.messages.count_tokens(model="nobody", messages=[HI])
    body: Any = refused.value.body
    assert body["request_id"] == refused.value.request_id
    assert body["request_id"].startswith("req_")


def test_requests_that_differ_in_their_billing_have_one_prompt(
    app: LiveApp, client: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = app.say(monkeypatch, MODEL, "Rain.<|eot_id|>")
    for number in (1, 2):
        billing = f"x-anthropic-billing-header: cch={number};"
        client.messages.create(**ASKED, system=[{"type": "text", "text": text} for text in (billing, "Be brief.")])
    assert prompts[0] == prompts[1]


def test_an_error_amid_a_stream_is_told_in_it(
    app: LiveApp, client: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.fail_after(monkeypatch, MODEL, "Rain and more rain and")
    with pytest.raises(anthropic.APIStatusError) as failed, client.messages.stream(**ASKED) as stream:
        stream.until_done()
    assert failed.value.type == "api_error"


def test_a_form_is_enforced(client: anthropic.Anthropic) -> None:
    answer = client.messages.parse(**ASKED, output_format=Weather)
    assert answer.parsed_output
    assert answer.parsed_output.city in ("Oslo", "Paris")


ERRORS: dict[str, tuple[dict[str, Any], type[anthropic.APIStatusError], str]] = {
    "an unknown model": ({"model": "claude-9"}, anthropic.NotFoundError, "not_found_error"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}]},
        anthropic.BadRequestError, "invalid_request_error",
    ),
    "no room": ({"messages": [{"role": "user", "content": "a " * 9000}]}, anthropic.BadRequestError,
                "invalid_request_error"),
}  # fmt: skip


@pytest.mark.parametrize("others, kind, word", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("streamed", [False, True])
def test_errors_are_those_of_the_client(
    client: anthropic.Anthropic, others: Any, kind: type[anthropic.APIStatusError], word: str, streamed: bool
) -> None:
    with pytest.raises(kind) as refused:
        client.messages.create(**ASKED | others, stream=streamed)
    body: Any = refused.value.body
    assert body["error"]["type"] == refused.value.type == word
    assert body["request_id"] == refused.value.request_id
    assert body["request_id"].startswith("req_")
