"""The openai package, as users have it, against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest
from helpers.served import ENDLESS, Served, serving, until

ASKED = [{"role": "user", "content": "What is the weather in Oslo?"}]
PROMPT = "Once upon a time"
CITIES = ["Oslo", "Paris"]
WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"enum": CITIES}}, "required": ["city"],
                   "additionalProperties": False}}}  # fmt: skip
PICTURE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}  # which nobody may ask for
KEY = "sk-of-the-tests"


class Weather(pydantic.BaseModel):
    city: Literal["Oslo", "Paris"]
    warm: bool


@pytest.fixture(scope="module")
def client(house: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=house.served.url, api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that answers one request, lets one more wait, and demands a key."""
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text(KEY + "\n")
    key.chmod(0o600)
    with serving("--concurrency", 1, "--max-queue", 1, "--api-key-file", key) as served:
        served.headers = {"Authorization": f"Bearer {KEY}"}
        yield served


def chat(client: Any, house: Any, **options: Any) -> Any:
    usual = {"model": house.chat, "messages": ASKED, "max_tokens": 8, "temperature": 0}
    return client.chat.completions.create(**(usual | options))


def test_a_chat_is_answered(client: Any, house: Any) -> None:
    answer = chat(client, house)
    (choice,) = answer.choices
    assert (choice.message.role, choice.finish_reason, choice.message.tool_calls) == ("assistant", "length", None)
    assert choice.message.content
    assert (answer.object, answer.model) == ("chat.completion", house.chat)
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint


def test_a_streamed_chat_is_the_whole_one_in_pieces(client: Any, house: Any) -> None:
    whole = chat(client, house)
    chunks = list(chat(client, house, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    assert [c.choices[0].delta.role for c in chunks[:-1] if c.choices[0].delta.role] == ["assistant"]
    assert [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_prompt_is_completed_as_text_and_as_ids(client: Any, house: Any) -> None:
    asked: dict[str, Any] = {"model": house.demo, "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(prompt=PROMPT, **asked)
    assert whole.choices[0].text.strip()
    ids = house.served.ask("POST", "/tokenize", {"model": house.demo, "content": PROMPT, "add_special": True}).json
    told = client.completions.create(prompt=ids["tokens"], **asked)
    assert told.choices[0].text == whole.choices[0].text
    both = client.completions.create(prompt=[PROMPT, "The cat"], **asked)
    assert [choice.index for choice in both.choices] == [0, 1]
    assert both.choices[0].text == whole.choices[0].text
    pieces = client.completions.create(prompt=PROMPT, stream=True, **asked)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text


def test_async_clients_are_answered_together(house: Any) -> None:
    async def ask_all() -> tuple[list[Any], list[Any]]:
        async with openai.AsyncOpenAI(base_url=house.served.url, api_key="unused", max_retries=0) as client:
            whole = await asyncio.gather(*(chat(client, house, seed=n, temperature=1) for n in range(6)))
            streams = await asyncio.gather(*(chat(client, house, seed=n, temperature=1, stream=True) for n in range(6)))
            return whole, [[chunk async for chunk in stream] for stream in streams]

    whole, streams = asyncio.run(ask_all())
    told = ["".join(chunk.choices[0].delta.content or "" for chunk in stream) for stream in streams]
    assert told == [answer.choices[0].message.content for answer in whole]
    assert len(set(told)) > 1


def test_a_tool_is_called_and_its_result_is_read(client: Any, house: Any) -> None:
    answer = chat(client, house, tools=[WEATHER], tool_choice="required", max_tokens=100)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert calls[0].function.name == "weather"
    assert json.loads(calls[0].function.arguments)["city"] in CITIES
    result = [{"role": "tool", "tool_call_id": call.id, "content": "Rain."} for call in calls[:1]]
    said = choice.message.model_dump(exclude_none=True) | {"tool_calls": [calls[0].model_dump()]}
    assert chat(client, house, messages=[*ASKED, said, *result], tools=[WEATHER]).choices[0].message.content is not None


def test_a_named_tool_comes_in_pieces_that_add_up(client: Any, house: Any) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    chunks = list(chat(client, house, tools=[WEATHER], tool_choice=named, max_tokens=100, stream=True))
    pieces = [call for c in chunks for call in c.choices[0].delta.tool_calls or []]
    assert [piece.function.name for piece in pieces if piece.function.name] == ["weather"]
    assert [piece.id for piece in pieces if piece.id] == [pieces[0].id]
    assert {piece.index for piece in pieces} == {0}
    assert json.loads("".join(piece.function.arguments for piece in pieces))["city"] in CITIES
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_call_that_the_length_cuts_is_no_call(client: Any, house: Any) -> None:
    (choice,) = chat(client, house, tools=[WEATHER], tool_choice="required", max_tokens=5).choices
    assert choice.finish_reason == "length"
    assert not choice.message.tool_calls


def test_an_answer_parses_as_a_model_of_pydantic(client: Any, house: Any) -> None:
    asked: dict[str, Any] = {"model": house.chat, "messages": ASKED, "max_tokens": 100, "response_format": Weather}
    answer = client.chat.completions.parse(**asked)
    assert isinstance(answer.choices[0].message.parsed, Weather)
    with client.chat.completions.stream(**asked) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)


def test_an_answer_is_json_where_json_is_asked_for(client: Any, house: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema, "strict": True}}
    assert json.loads(chat(client, house, response_format=form, max_tokens=60).choices[0].message.content)[
        "n"
    ] in range(10)


def test_log_probabilities_add_up_to_the_text(client: Any, house: Any) -> None:
    for streamed in (False, True):
        came = chat(client, house, logprobs=True, top_logprobs=3, stream=streamed)
        choices = [chunk.choices[0] for chunk in came] if streamed else came.choices
        entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
        assert len(entries) == 8
        assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in entries)
        text = "".join((c.delta if streamed else c.message).content or "" for c in choices)
        written = [entry for entry in entries if not entry.token.startswith("<|")]  # special tokens are no text
        assert b"".join(bytes(entry.bytes) for entry in written).decode(errors="replace") == text


@pytest.mark.slow
def test_several_answers_have_places_and_seeds(client: Any, house: Any) -> None:
    asked: dict[str, Any] = {"n": 3, "seed": 0, "temperature": 1}
    answer = chat(client, house, **asked)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) > 1
    streamed = ["", "", ""]
    for chunk in chat(client, house, stream=True, **asked):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_models_are_listed_and_found(client: Any, house: Any) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {house.chat, house.demo} <= set(listed)
    found = client.models.retrieve(house.demo)
    assert (found.id, found.object) == (house.demo, "model")
    assert found.context_length == 512
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("nobody/has-this")
    assert missing.value.code == "model_not_found"


# How the errors of a request reach its caller: what was wrong, its class, its code and its field.
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str | None, str | None]] = {
    "an unknown model": ({"model": "gpt-5"}, openai.NotFoundError, "model_not_found", "model"),
    "no messages": ({"messages": []}, openai.BadRequestError, None, "messages"),
    "a role that is none": ({"messages": [{"role": "king", "content": "a"}]}, openai.BadRequestError, None,
                            "messages[0].role"),
    "a temperature beyond 2": ({"temperature": 3}, openai.BadRequestError, None, "temperature"),
    "a word for a number": ({"max_tokens": "many"}, openai.BadRequestError, None, "max_tokens"),
    "too many answers": ({"n": 1000}, openai.BadRequestError, None, "n"),
    "a form that is none": ({"response_format": {"type": "sound"}}, openai.BadRequestError, None, None),
    "sound": ({"modalities": ["audio"], "audio": {"voice": "a", "format": "wav"}}, openai.BadRequestError,
              "unsupported_parameter", None),
    "an image": ({"messages": [{"role": "user", "content": [PICTURE]}]}, openai.BadRequestError, None, None),
    "a prompt beyond the context": ({"messages": [{"role": "user", "content": "the cat sat " * 5000}]},
                                    openai.BadRequestError, "context_length_exceeded", None),
}  # fmt: skip


@pytest.mark.parametrize("options, kind, code, param", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("streamed", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["whole", "streamed"])
def test_an_error_says_what_was_wrong(
    client: Any, house: Any, options: dict[str, Any], kind: type[Exception], code: str | None, param: str | None,
    streamed: bool,
) -> None:  # fmt: skip
    with pytest.raises(kind) as refused:
        chat(client, house, stream=streamed, **options)
    error: Any = refused.value
    assert error.body["message"]
    assert error.type == ("not_found_error" if kind is openai.NotFoundError else "invalid_request_error")
    assert error.request_id
    assert code is None or error.code == code
    assert param is None or error.param == param


def test_a_prompt_beyond_the_context_is_told_in_the_words_that_others_look_for(client: Any, house: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"maximum context length is 512 tokens\. However, you requested"):
        client.completions.create(model=house.demo, prompt="the cat sat " * 500, max_tokens=4)


@pytest.mark.slow
def test_a_key_is_demanded_where_there_is_one(crowded: Served) -> None:
    with openai.OpenAI(base_url=crowded.url, api_key="sk-another", max_retries=0) as stranger:
        for call in (stranger.models.list, lambda: stranger.completions.create(model="demo", prompt="a")):
            with pytest.raises(openai.AuthenticationError) as refused:
                call()
            assert refused.value.code == "invalid_api_key"
            assert KEY not in str(refused.value)
    with openai.OpenAI(base_url=crowded.url, api_key=KEY, max_retries=0) as friend:
        assert [model.id for model in friend.models.list()] == ["demo"]


@pytest.mark.slow
def test_a_full_queue_is_tried_again_and_a_bad_request_is_not(crowded: Served) -> None:
    sent: list[int] = []
    running: list[Any] = []

    def seen(response: Any) -> None:
        sent.append(response.status_code)
        if response.status_code == 503:
            assert 1 <= int(response.headers["retry-after"]) <= 120  # beyond that the package gives up
            while running:
                running.pop().close()

    http = openai.DefaultHttpxClient(event_hooks={"response": [seen]})
    with openai.OpenAI(base_url=crowded.url, api_key=KEY, http_client=http, max_retries=2) as client:
        long: dict[str, Any] = {"model": "demo", "prompt": PROMPT, "stream": True, "extra_body": ENDLESS}
        running += [client.completions.create(**long) for _ in range(2)]
        assert client.completions.create(model="demo", prompt=PROMPT, max_tokens=2).choices[0].text
        assert sent == [200, 200, 503, 200]
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model="demo", prompt=PROMPT, temperature=-1)
        assert sent[4:] == [400]


def test_closing_a_stream_cancels_its_request(client: Any, house: Any) -> None:
    stream = client.completions.create(model=house.demo, prompt=PROMPT, stream=True, extra_body=ENDLESS)
    next(iter(stream))
    stream.close()
    until(lambda: house.served.busy == 0, "the end of a request whose client left")


@pytest.mark.slow
def test_leaving_before_a_whole_answer_cancels_its_request(house: Any) -> None:
    with openai.OpenAI(base_url=house.served.url, api_key="unused", max_retries=0, timeout=0.3) as hasty:
        for _ in range(3):
            with pytest.raises(openai.APITimeoutError):
                hasty.completions.create(model=house.demo, prompt=PROMPT, n=4, extra_body=ENDLESS)
    until(lambda: house.served.busy == 0, "the end of requests whose client left")


@pytest.mark.slow
def test_a_response_is_answered_and_streamed(client: Any, house: Any) -> None:
    asked: dict[str, Any] = {"model": house.chat, "input": "Hi", "max_output_tokens": 16, "temperature": 0}
    whole = client.responses.create(**asked)
    assert whole.status == "incomplete"
    assert whole.output_text
    events = list(client.responses.create(stream=True, **asked))
    assert [events[0].type, events[1].type] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.incomplete"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    tool = {"type": "function", "name": "weather", "parameters": WEATHER["function"]["parameters"]}
    called = client.responses.create(**(asked | {"tools": [tool], "tool_choice": "required", "max_output_tokens": 99}))
    (call,) = (item for item in called.output if item.type == "function_call")
    assert json.loads(call.arguments)["city"] in CITIES
    parsed = client.responses.parse(**(asked | {"max_output_tokens": 99, "text_format": Weather}))
    assert isinstance(parsed.output_parsed, Weather)


def test_embeddings_are_refused_with_the_reason(client: Any, house: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="embedding"):
        client.embeddings.create(model=house.demo, input="a")
