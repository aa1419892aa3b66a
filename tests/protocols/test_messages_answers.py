"""Anthropic's Messages API, written: every object and event is what its client reads, in its order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from helpers.pieces import Answer, answer, call, events_of, whole_of
from pydantic import TypeAdapter

import elm_mlx
from elm_mlx.protocols import anthropic as messages
from elm_mlx.protocols.dialect import Event, Facts
from elm_mlx.protocols.refusal import Refusal

STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
BODY: dict[str, Any] = {
    "model": "demo", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "stop_sequences": ["###"],
}  # fmt: skip
CALLS = (call("weather", 1, city="Zü"), call("weather", 2, city="天"))
ANSWERS = {
    "text": answer("Hello there."),
    "nothing": answer(),
    "cut": answer("Hello the", finish="length"),
    "thinking": answer(("reasoning", "Hm, well."), "Hello."),
    "cut thinking": answer(("reasoning", "Hm, we"), finish="length"),
    "calls": answer("I look.", *CALLS),
    "calls alone": answer(*CALLS),
    "all": answer(("reasoning", "Hm."), "I look.", CALLS[0], " And ", CALLS[1], "."),
    "stop string": answer("Hello", stop="###"),
    "stop string of the model": answer("Hello", stop="<end>"),
}


@pytest.fixture(params=list(ANSWERS))
def given(request: pytest.FixtureRequest) -> Answer:
    return ANSWERS[request.param]


def put_together(told: list[Event]) -> dict[str, Any]:
    """The message that a stream tells, as a client puts it together."""
    made: dict[str, Any] = {}
    for data, _ in told:
        assert isinstance(data, dict)
        match data["type"]:
            case "message_start":
                made = json.loads(json.dumps(data["message"]))
            case "content_block_start":
                assert data["index"] == len(made["content"])
                made["content"].append(dict(data["content_block"]))
            case "content_block_delta":
                add_delta(made["content"][data["index"]], data["delta"])
            case "message_delta":
                made |= data["delta"] | {"usage": data["usage"]}
    return made


def add_delta(block: dict[str, Any], delta: dict[str, Any]) -> None:
    if delta["type"] == "input_json_delta":
        block["input"] = json.loads(delta["partial_json"])
    else:
        name = delta["type"].removesuffix("_delta")
        block[name] += delta[name]


def test_whole_answers_are_what_the_client_reads(given: Answer, facts: Facts) -> None:
    told = whole_of(messages, BODY, facts, given)
    Message.model_validate(told, strict=True)
    assert json.loads(json.dumps(told)) == told
    assert told["id"].startswith("msg_")
    assert told["content"]


def test_events_are_what_the_client_reads(given: Answer, facts: Facts) -> None:
    for event in events_of(messages, BODY, facts, given):
        STREAM_EVENT.validate_python(event.data, strict=True)
        assert isinstance(event.data, dict)
        assert event.name == event.data["type"]


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "all"])
def test_a_stream_adds_up_to_the_answer_that_is_given_whole(name: str, facts: Facts) -> None:
    told = events_of(messages, BODY, facts, ANSWERS[name])
    assert put_together(told) == whole_of(messages, BODY, facts, ANSWERS[name])


def test_texts_between_calls_are_blocks_of_their_own(facts: Facts) -> None:
    content = put_together(events_of(messages, BODY, facts, ANSWERS["all"]))["content"]
    assert [block["type"] for block in content] == ["thinking", "text", "tool_use", "text", "tool_use", "text"]


def test_a_text_comes_in_the_order_that_clients_wait_for(facts: Facts) -> None:
    deltas = ["content_block_delta"] * 4
    assert [event.name for event in events_of(messages, BODY, facts, ANSWERS["text"])] == [
        "message_start", "content_block_start", *deltas, "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip


def test_a_message_begins_with_the_length_of_its_prompt(facts: Facts) -> None:
    data = events_of(messages, BODY, facts, ANSWERS["text"], prompt=[17])[0].data
    assert isinstance(data, dict)
    assert data["message"]["usage"]["input_tokens"] == 17
    assert data["message"]["stop_reason"] is None


@pytest.mark.parametrize(
    "name, reason, sequence",
    [
        ("text", "end_turn", None), ("nothing", "end_turn", None), ("cut", "max_tokens", None),
        ("cut thinking", "max_tokens", None), ("calls", "tool_use", None), ("calls alone", "tool_use", None),
        ("stop string", "stop_sequence", "###"), ("stop string of the model", "end_turn", None),
    ],
)  # fmt: skip
def test_an_answer_says_why_it_ended(name: str, reason: str, sequence: str | None, facts: Facts) -> None:
    told = whole_of(messages, BODY, facts, ANSWERS[name])
    assert (told["stop_reason"], told["stop_sequence"]) == (reason, sequence)


@pytest.mark.parametrize("kind, count", [("disabled", 1), ("enabled", 2)])
def test_thinking_that_is_switched_off_is_not_shown(kind: str, count: int, facts: Facts) -> None:
    body = BODY | {"thinking": {"type": kind, "budget_tokens": 1024}}
    assert len(whole_of(messages, body, facts, ANSWERS["thinking"])["content"]) == count
    assert len(put_together(events_of(messages, body, facts, ANSWERS["thinking"]))["content"]) == count


def test_tokens_that_were_known_are_counted_apart(facts: Facts) -> None:
    usage = whole_of(messages, BODY, facts, answer("Hello", cached=3))["usage"]
    assert usage == {
        "input_tokens": 2, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 0, "output_tokens": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "status, kind",
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "not_found_error"), (405, "invalid_request_error"), (413, "request_too_large"),
        (415, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error"), (503, "overloaded_error"),
        (529, "overloaded_error"),
    ],
)  # fmt: skip
def test_errors_have_anthropic_s_words(status: int, kind: str) -> None:
    told = messages.refused(Refusal(status, "No.", request_id="req_1"))
    assert told == {"type": "error", "error": {"type": kind, "message": "No."}, "request_id": "req_1"}
    if kind != "request_too_large":  # a word of the API that its client has no type for
        ErrorResponse.model_validate(told, strict=True)


def test_a_stream_that_fails_says_so(facts: Facts) -> None:
    stream = messages.events(messages.read(BODY), BODY, facts)
    stream.begin([5])
    (event,) = stream.fail(Refusal(503, "The model was closed."))
    assert event.name == "error"
    assert event.data == messages.refused(Refusal(503, "The model was closed."))


def test_an_answer_that_goes_on_keeps_the_blank_before_its_first_word(
    facts: Facts, demo: elm_mlx.LanguageModel
) -> None:
    body = BODY | {
        "messages": [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "Once upon a"}]
    }
    stream = demo.stream("Once upon a", 5)
    given = Answer(list(stream), stream.completion)
    told = whole_of(messages, body, facts, given)
    assert told["content"][0]["text"] == f" {given.completion.text}"
    assert put_together(events_of(messages, body, facts, given)) == told


def test_answers_of_a_real_model_are_told(facts: Facts, demo: elm_mlx.LanguageModel) -> None:
    ask = messages.read(BODY)
    stream = demo.stream("Once upon a time", ask.max_tokens, **ask.options)  # type: ignore[misc]
    pieces = list(stream)
    given = Answer(pieces, stream.completion)
    told = events_of(messages, BODY, facts, given)
    for event in told:
        STREAM_EVENT.validate_python(event.data, strict=True)
    assert put_together(told) == whole_of(messages, BODY, facts, given)
    assert put_together(told)["content"][0]["text"] == given.completion.text != ""
