"""The Responses API, written: every object and event has the form that OpenAI's client and schemas ask for, in the
order in which Codex needs them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from helpers import openai_schemas
from helpers.pieces import Answer, answer, call, events_of, whole_of
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

import elm_mlx
from elm_mlx.protocols import responses
from elm_mlx.protocols.dialect import Event, Facts
from elm_mlx.protocols.refusal import Refusal

STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False}
PLAIN = {"model": "demo", "input": "Hi"}
FULL = PLAIN | {
    "instructions": "Be brief.",
    "tools": [WEATHER, {"type": "web_search"}],
    "tool_choice": {"type": "function", "name": "weather"},
    "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}, "verbosity": "low"},
    "metadata": {"who": "me"},
    "temperature": 0.5,
    "top_p": 1,
    "max_output_tokens": 9,
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 2,
}
TWO_CALLS = (call("weather", 1, city="Zü"), call("weather", 2, city="天"))
ANSWERS = {
    "text": answer("Hello there."),
    "nothing": answer(),
    "cut": answer("Hello the", finish="length"),
    "reasoning": answer(("reasoning", "Hm, well."), "Hello."),
    "cut reasoning": answer(("reasoning", "Hm, we"), finish="length"),
    "cut after a call": answer("I look.", call("weather", 1, city="Zü"), finish="length"),
    "calls": answer("I look.", *TWO_CALLS),
    "calls alone": answer(*TWO_CALLS),
    "all": answer(("reasoning", "Hm."), "I look.", TWO_CALLS[0], " And ", TWO_CALLS[1], "."),
    "logprobs": answer("Hello there.", logprobs=True),
    "stop string": answer("Hello", stop="###"),
}


@pytest.fixture(params=[PLAIN, FULL], ids=["plain", "full"])
def body(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture(params=list(ANSWERS))
def given(request: pytest.FixtureRequest) -> Answer:
    return ANSWERS[request.param]


def names(told: list[Event]) -> list[str]:
    return [(name or "").removeprefix("response.") for _, name in told]


def check_event(event: Event) -> None:
    STREAM_EVENT.validate_python(event.data, strict=True)
    assert isinstance(event.data, dict)
    assert event.name == event.data["type"]


def test_whole_answers_are_what_the_client_reads(body: dict[str, Any], given: Answer, facts: Facts) -> None:
    told = whole_of(responses, body, facts, given)
    read = Response.model_validate(told, strict=True)
    assert read.output_text == given.completion.text
    assert json.loads(json.dumps(told)) == told


@openai_schemas.NEEDED
def test_whole_answers_have_openai_s_schema(body: dict[str, Any], given: Answer, facts: Facts) -> None:
    openai_schemas.check(whole_of(responses, body, facts, given), "Response")


def test_events_are_what_the_client_reads(body: dict[str, Any], given: Answer, facts: Facts) -> None:
    for event in events_of(responses, body, facts, given):
        check_event(event)


@openai_schemas.NEEDED
@pytest.mark.parametrize("name", ["all", "cut", "logprobs"])
def test_events_have_openai_s_schemas(name: str, facts: Facts) -> None:
    """Those that have all kinds of events between them."""
    for event in events_of(responses, FULL, facts, ANSWERS[name]):
        openai_schemas.check(event.data, "ResponseStreamEvent")


def test_events_are_numbered_from_0(given: Answer, facts: Facts) -> None:
    told = events_of(responses, PLAIN, facts, given)
    assert [event.data["sequence_number"] for event in told] == list(range(len(told)))


def test_a_text_comes_in_the_order_that_clients_wait_for(facts: Facts) -> None:
    text = ["output_text.delta"] * 4
    assert names(events_of(responses, PLAIN, facts, ANSWERS["text"])) == [
        "created", "in_progress", "output_item.added", "content_part.added", *text, "output_text.done",
        "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip


def test_calls_come_whole_and_in_the_order_that_clients_wait_for(facts: Facts) -> None:
    one = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert names(events_of(responses, PLAIN, facts, ANSWERS["calls alone"])) == [
        "created", "in_progress", *one, *one, "completed",
    ]  # fmt: skip


def test_deltas_add_up_to_the_items_and_these_to_the_response(given: Answer, facts: Facts) -> None:
    told = events_of(responses, PLAIN, facts, given)
    texts: dict[int, str] = {}
    done: dict[int, Any] = {}
    for data, _ in told:
        assert isinstance(data, dict)
        if data["type"].endswith(".delta"):
            texts[data["output_index"]] = texts.get(data["output_index"], "") + data["delta"]
        if data["type"] == "response.output_item.done":
            done[data["output_index"]] = data["item"]
    last = told[-1].data
    assert isinstance(last, dict)
    assert last["response"]["output"] == list(done.values())
    assert list(done) == list(range(len(done)))
    for place, item in done.items():
        said = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert texts.get(place, "") == said
        assert item["status"] in ("completed", "incomplete")
    ids = [item["id"] for item in done.values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "name", ["text", "nothing", "cut", "reasoning", "cut reasoning", "cut after a call", "calls", "calls alone"]
)
def test_a_stream_ends_with_the_answer_that_is_given_whole(name: str, facts: Facts) -> None:
    last = events_of(responses, PLAIN, facts, ANSWERS[name])[-1].data
    assert isinstance(last, dict)
    assert last["response"] == whole_of(responses, PLAIN, facts, ANSWERS[name])


@pytest.mark.parametrize("name", ["cut", "cut reasoning"])
def test_a_cut_answer_is_incomplete(name: str, facts: Facts) -> None:
    told = events_of(responses, PLAIN, facts, ANSWERS[name])
    assert told[-1].name == "response.incomplete"
    assert isinstance(told[-1].data, dict)
    response = told[-1].data["response"]
    assert response["status"] == response["output"][-1]["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


def test_log_probabilities_come_with_their_text(facts: Facts) -> None:
    told = events_of(responses, FULL, facts, ANSWERS["logprobs"])
    deltas = [data for data, name in told if name == "response.output_text.delta"]
    assert [len(data["logprobs"]) for data in deltas] == [1, 1, 1, 1]  # type: ignore[index,call-overload]
    part = told[-1].data["response"]["output"][0]["content"][0]  # type: ignore[index,call-overload]
    assert part == whole_of(responses, FULL, facts, ANSWERS["logprobs"])["output"][0]["content"][0]
    assert [len(entry["top_logprobs"]) for entry in part["logprobs"]] == [2, 2, 2, 2]


def test_log_probabilities_are_those_of_the_text_alone(facts: Facts, demo: elm_mlx.LanguageModel) -> None:
    """Also where reasoning goes before."""
    stream = demo.stream("Once upon a time", 8, logprobs=1)
    pieces = list(stream)
    first = "".join(piece.text for piece in pieces[:3])
    thought = [replace(piece, kind="reasoning") for piece in pieces[:3]]
    said = replace(stream.completion, text=stream.completion.text.removeprefix(first), reasoning=first)
    given = Answer([*thought, *pieces[3:]], said)
    for told in (
        whole_of(responses, FULL, facts, given),
        events_of(responses, FULL, facts, given)[-1].data["response"],  # type: ignore[index,call-overload]
    ):
        part = told["output"][1]["content"][0]
        assert "".join(entry["token"] for entry in part["logprobs"]) == part["text"] == said.text


def test_a_response_repeats_what_was_asked(facts: Facts) -> None:
    told = whole_of(responses, FULL, facts, ANSWERS["text"])
    for name in ("instructions", "metadata", "temperature", "top_p", "max_output_tokens", "top_logprobs", "text",
                 "tool_choice"):  # fmt: skip
        assert told[name] == FULL[name]
    assert told["tools"] == [WEATHER]
    assert told["id"].startswith("resp_")
    assert told["store"] is False


def test_usage_counts_what_was_read_and_written(facts: Facts) -> None:
    usage = whole_of(responses, PLAIN, facts, answer(("reasoning", "Hm, well."), "Hi.", cached=3))["usage"]
    assert usage["input_tokens"] == 5
    assert usage["input_tokens_details"]["cached_tokens"] == 3
    assert usage["output_tokens"] == 4
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] <= 4
    assert usage["total_tokens"] == 9


@pytest.mark.parametrize("said", [0, 2, 3])
@pytest.mark.parametrize("status, code", [(400, "invalid_prompt"), (429, "rate_limit_exceeded"), (503, "server_error")])
def test_a_stream_that_fails_says_so_with_what_it_has(said: int, status: int, code: str, facts: Facts) -> None:
    stream = responses.events(responses.read(PLAIN), PLAIN, facts)
    told = stream.begin([5])
    for piece in ANSWERS["all"].pieces[:said]:
        told += stream.piece(0, piece)
    told += stream.fail(Refusal(status, "The model was closed."))
    for event in told:
        check_event(event)
    assert told[-1].name == "response.failed"
    assert isinstance(told[-1].data, dict)
    assert told[-1].data["response"]["error"] == {"code": code, "message": "The model was closed."}
    assert len(told[-1].data["response"]["output"]) == (said > 0) + (said > 1)


def test_an_error_has_all_four_keys() -> None:
    told = responses.refused(Refusal(404, "No such model.", "not_found_error", "model_not_found", "model"))
    assert told == {
        "error": {
            "message": "No such model.", "type": "not_found_error", "param": "model", "code": "model_not_found",
        }
    }  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"include": ["message.output_text.logprobs"], "top_logprobs": 2}])
def test_answers_of_a_real_model_are_told(options: dict[str, Any], facts: Facts, demo: elm_mlx.LanguageModel) -> None:
    body = PLAIN | options
    ask = responses.read(body)
    stream = demo.stream("Once upon a time", 8, **ask.options)  # type: ignore[misc]
    pieces = list(stream)
    given = Answer(pieces, stream.completion)
    told = events_of(responses, body, facts, given)
    for event in told:
        check_event(event)
    assert isinstance(told[-1].data, dict)
    assert told[-1].data["response"] == whole_of(responses, body, facts, given)
    part = told[-1].data["response"]["output"][0]["content"][0]
    # A text does not begin with the space that its first token has.
    said = "".join(entry["token"] for entry in part["logprobs"])
    assert said.removeprefix(" ") == (part["text"] if options else "")
