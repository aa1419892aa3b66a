"""The openai package's Responses client against the whole server, with answers that the tests write."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from helpers.live_app import LiveApp
from helpers.talkers import CALL, CITY, MODEL, REASONER, Weather, two_talkers

WEATHER = {"type": "function", "name": "weather", "description": "Tells it.", "strict": False, "parameters": CITY}
ASKED: dict[str, Any] = {"model": MODEL, "input": "What is the weather?"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApp]:
    with two_talkers(tmp_path_factory.mktemp("responses")) as app:
        yield app


@pytest.fixture(scope="module")
def client(app: LiveApp) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{app.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_a_text_is_answered(app: LiveApp, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = app.say(monkeypatch, MODEL, "Rain, naïve 天気.<|eot_id|>")
    answer = client.responses.create(**ASKED, instructions="Be brief.", metadata={"who": "me"})
    assert answer.output_text == "Rain, naïve 天気."
    assert (answer.status, answer.instructions, answer.metadata) == ("completed", "Be brief.", {"who": "me"})
    assert answer.usage
    assert answer.usage.input_tokens == len(prompts[0])
    assert "Be brief." in app.shown(MODEL, prompts[0])


def test_a_stream_adds_up_to_the_answer(app: LiveApp, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    app.say(monkeypatch, MODEL, "Rain.<|eot_id|>")
    with client.responses.stream(**ASKED) as stream:
        events = list(stream)
        answer = stream.get_final_response()
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Rain."
    assert answer.output_text == "Rain."
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_async_clients_are_answered(app: LiveApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app.say(monkeypatch, MODEL, "Rain.<|eot_id|>")

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{app.url}/v1", api_key="unused", max_retries=0) as client:
            whole = await client.responses.create(**ASKED)
            async with client.responses.stream(**ASKED) as stream:
                streamed = await stream.get_final_response()
            return [whole.output_text, streamed.output_text]

    assert asyncio.run(ask()) == ["Rain."] * 2


@pytest.mark.parametrize("streamed, in_parallel", [(False, True), (True, False)])
def test_functions_are_called_and_their_results_are_read(
    app: LiveApp, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, streamed: bool, in_parallel: bool
) -> None:
    app.say(monkeypatch, MODEL, f"{CALL.format('Oslo')}; {CALL.format('Zü')}<|eom_id|>")
    asked = ASKED | {"tools": [WEATHER], "parallel_tool_calls": in_parallel}
    if streamed:
        with client.responses.stream(**asked) as stream:
            answer: Any = stream.get_final_response()
    else:
        answer = client.responses.create(**asked)
    calls = answer.output
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Oslo", "Zü"][: 1 + in_parallel]
    assert all(call.type == "function_call" and call.name == "weather" and call.call_id for call in calls)
    told = [{"type": "function_call_output", "call_id": call.call_id, "output": "Rain!"} for call in calls]
    said = [call.to_dict() for call in calls]
    prompts = app.say(monkeypatch, MODEL, "So it is.<|eot_id|>")
    again = client.responses.create(**asked | {"input": [{"role": "user", "content": "Well?"}, *said, *told]})
    assert again.output_text == "So it is."
    assert app.shown(MODEL, prompts[0]).count("Rain!") == len(calls)


def test_reasoning_is_an_item_that_may_be_sent_back(
    app: LiveApp, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.say(monkeypatch, REASONER, "Hm, well.</think>\n\nRain.<|eot_id|>")
    with client.responses.stream(model=REASONER, input="Well?") as stream:
        types = [event.type for event in stream]
        answer = stream.get_final_response()
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == "Hm, well."  # type: ignore[union-attr,index]
    assert answer.output_text == "Rain."
    assert answer.usage
    assert answer.usage.output_tokens_details.reasoning_tokens > 0
    assert "response.reasoning_text.delta" in types
    back: Any = [{"role": "user", "content": "Well?"}, *(item.to_dict() for item in answer.output)]
    client.responses.create(model=REASONER, input=[*back, {"role": "user", "content": "Sure?"}])


def test_a_cut_answer_is_incomplete(app: LiveApp, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    app.say(monkeypatch, MODEL, "Rain and more rain.<|eot_id|>")
    answer = client.responses.create(**ASKED, max_output_tokens=3)
    assert answer.status == "incomplete"
    assert answer.incomplete_details
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert [event.type for event in client.responses.create(**ASKED, max_output_tokens=3, stream=True)][-1] == (
        "response.incomplete"
    )


def test_what_is_left_out_is_told_in_a_header(
    app: LiveApp, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.say(monkeypatch, MODEL, "Rain.<|eot_id|>")
    raw: Any = client.responses.with_raw_response.create(
        **ASKED, tools=[WEATHER, {"type": "web_search"}], extra_body={"colour": "red"}
    )
    assert raw.headers["x-ignored-fields"] == "colour, tools[1]"
    assert raw.parse().output_text == "Rain."


def test_an_error_amid_a_stream_is_told_in_it(
    app: LiveApp, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.fail_after(monkeypatch, MODEL, "Rain and more rain and")
    events: list[Any] = list(client.responses.create(**ASKED, stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "server_error"


def test_a_form_is_enforced(client: openai.OpenAI) -> None:
    answer = client.responses.parse(**ASKED, text_format=Weather, max_output_tokens=100)
    assert answer.output_parsed
    assert answer.output_parsed.city in ("Oslo", "Paris")


ERRORS: dict[str, tuple[dict[str, Any], type[openai.APIStatusError], str | None, str | None]] = {
    "an unknown model": ({"model": "gpt-9"}, openai.NotFoundError, "model", "model_not_found"),
    "an image": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x", "detail": "low"}]}]},
        openai.BadRequestError, "input[0].content[0].type", "unsupported_content_type",
    ),
    "a conversation that is stored": (
        {"previous_response_id": "resp_1"}, openai.BadRequestError, "previous_response_id", "unsupported_parameter",
    ),
    "a schema that is none": (
        {"tools": [WEATHER | {"parameters": {"type": "array"}}]}, openai.BadRequestError,
        "tools[0]", "invalid_value",
    ),
    "no room": ({"input": "the cat sat " * 5000}, openai.BadRequestError, None, "context_length_exceeded"),
}  # fmt: skip


@pytest.mark.parametrize("others, kind, param, code", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("streamed", [False, True])
def test_errors_are_those_of_the_client(
    client: openai.OpenAI, others: dict[str, Any], kind: type[openai.APIStatusError], param: str, code: str,
    streamed: bool,
) -> None:  # fmt: skip
    with pytest.raises(kind) as refused:
        client.responses.create(**ASKED | others, stream=streamed)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.request_id
