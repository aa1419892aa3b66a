"""Answers of OpenAI's chats and completions, whole and as events, by the demo model and by models that a test scripts:
each has the form of OpenAI's own schemas, where these are there, and both say the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from helpers import chat_templates as written
from helpers import openai_schemas, scripts

import elm_mlx
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Event, Facts
from elm_mlx.protocols.openai import chat, completions
from elm_mlx.protocols.openai.models import NO_EMBEDDINGS, list_of, model_of
from elm_mlx.protocols.refusal import Refusal
from elm_mlx.server.asking import submit
from elm_mlx.server.scoring import scored_prompts

HI = [{"role": "user", "content": "Hi"}]
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"days": {"type": "integer"}}}}
TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": WEATHER}]}
CALL = '{"name": "weather", "parameters": {"city": "Zü 天", "days": "2"}}'
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
TEMPLATE = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '<|eot_id|>' }}{% endfor %}{# <think></think> #}"


class Told(NamedTuple):
    """An answer as an object, and as the data of its events."""

    whole: Any
    chunks: list[Any]

    def joined(self, name: str, index: int = 0) -> str:
        """What all deltas of an answer say under a name."""
        choices = [one for chunk in self.chunks for one in chunk["choices"] if one["index"] == index]
        return "".join(one.get("delta", one).get(name) or "" for one in choices)

    def reasons(self, index: int = 0) -> list[Any]:
        """The reasons that an answer's events give."""
        return [one["finish_reason"] for chunk in self.chunks for one in chunk["choices"] if one["index"] == index]


def tell(dialect: ModuleType, lm: elm_mlx.LanguageModel, **body: Any) -> Told:
    """Asks a model, and gives what a client is told, whole and as a stream."""
    ask: Ask = dialect.read(body, strict=True)
    facts = Facts("a1b2", 1_750_000_000, "demo", lm, asyncio.run(scored_prompts(ask, lm)))
    streams, events = submit(ask, lm), dialect.events(ask, body, facts)
    told: list[Event] = events.begin([len(stream.prompt) for stream in streams[:: ask.n]])
    for index, stream in enumerate(streams):
        for piece in stream:
            told += events.piece(index, piece)
        told += events.answer_ended(index, stream.completion)
    done = [stream.completion for stream in streams]
    *chunks, last = [event.data for event in told + events.end(done)]
    assert last == "[DONE]"
    assert all(event.name is None for event in told)
    result = Told(dialect.whole(ask, body, facts, done), chunks)
    check_forms(dialect, result)
    return result


def check_forms(dialect: ModuleType, told: Told) -> None:
    """Compares what is told with OpenAI's schemas, and what they leave open with OpenAI's answers."""
    json.dumps([told.whole, told.chunks], allow_nan=False)
    head = {name: told.chunks[0][name] for name in ("id", "object", "created", "model", "system_fingerprint")}
    for chunk in told.chunks:
        assert {name: chunk[name] for name in head} == head
        assert all({"index", "logprobs", "finish_reason"} < one.keys() for one in chunk["choices"])
    if not openai_schemas.PATH.is_file():
        return
    whole, part = {
        chat: ("CreateChatCompletionResponse", "CreateChatCompletionStreamResponse"),
        completions: ("CreateCompletionResponse",) * 2,
    }[dialect]
    openai_schemas.check(told.whole, whole)
    for chunk in told.chunks:
        openai_schemas.check(without_nulls(chunk) if dialect is completions else chunk, part)


def without_nulls(chunk: Any) -> Any:
    """A part of a completion as a whole one, for which alone there is a schema: that has a reason and a usage."""
    ended = [one | {"finish_reason": one["finish_reason"] or "stop"} for one in chunk["choices"]]
    return {name: value for name, value in chunk.items() if value is not None} | {"choices": ended}


complete = partial(tell, completions)


# Completions, by the demo model


def test_a_completion_goes_on_with_its_prompt_blank_included(demo: elm_mlx.LanguageModel) -> None:
    told = complete(demo, prompt="Once upon", max_tokens=4, temperature=0)
    choice = told.whole["choices"][0]
    assert choice == {"index": 0, "text": told.joined("text"), "logprobs": None, "finish_reason": "length"}
    assert choice["text"].startswith(" a time")
    assert told.reasons() == [None] * 4 + ["length"]
    assert told.whole["id"] == "cmpl-a1b2"
    assert all("usage" not in chunk for chunk in told.chunks)


def test_ids_and_texts_are_answered_alike_and_echoed(demo: elm_mlx.LanguageModel) -> None:
    ids = demo.tokenizer.encode("Once upon")
    told = complete(demo, prompt=["Once upon", ids], echo=True, max_tokens=4, temperature=0)
    texts = [choice["text"] for choice in told.whole["choices"]]
    assert texts[0] == texts[1] == told.joined("text", 0) == told.joined("text", 1)
    assert texts[0].startswith("Once upon a time")
    assert told.whole["usage"]["prompt_tokens"] == 2 * len(ids)


def test_each_prompt_has_its_answers_in_a_row_and_counts_once(demo: elm_mlx.LanguageModel) -> None:
    told = complete(demo, prompt=["Once upon", "The bear"], n=2, max_tokens=3, seed=0, temperature=1, **USAGE)
    assert [choice["index"] for choice in told.whole["choices"]] == [0, 1, 2, 3]
    assert [told.joined("text", index) for index in range(4)] == [one["text"] for one in told.whole["choices"]]
    *earlier, last = told.chunks
    assert all(chunk["usage"] is None for chunk in earlier)
    assert (last["choices"], last["usage"]) == ([], told.whole["usage"])
    prompt = sum(len(demo.tokenizer.encode(text)) for text in ("Once upon", "The bear"))
    assert last["usage"] | {"prompt_tokens_details": 0} == {
        "prompt_tokens": prompt, "completion_tokens": 12, "total_tokens": prompt + 12, "prompt_tokens_details": 0,
        "completion_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip


def stitched(told: Told) -> dict[str, list[Any]]:
    """The log-probabilities of all events of a completion, one after the other."""
    parts = [chunk["choices"][0]["logprobs"] or {} for chunk in told.chunks]
    return {
        name: [one for part in parts for one in part.get(name, [])] for name in told.whole["choices"][0]["logprobs"]
    }


@pytest.mark.parametrize("options", [{}, {"stop": "lived"}, {"stop": "me ther"}, {"prompt": "Once upon a"}], ids=str)
def test_tokens_and_their_places_are_those_of_the_text(demo: elm_mlx.LanguageModel, options: dict[str, Any]) -> None:
    told = complete(demo, **{"prompt": "Once upon", "max_tokens": 6, "temperature": 0, "logprobs": 2} | options)
    choice = told.whole["choices"][0]
    found, text = choice["logprobs"], choice["text"]
    assert stitched(told) == found
    assert "".join(found["tokens"]).startswith(text)
    cut = "".join(found["tokens"][:-1])
    assert len(cut) < len(text)  # none stands wholly behind the text
    for offset, token in zip(found["text_offset"], found["tokens"], strict=True):
        assert token.startswith(text[offset : offset + len(token)])
    assert [len(one) for one in found["top_logprobs"]] == [2] * len(found["tokens"])


def test_a_prompt_is_judged_as_the_answer_would_be(demo: elm_mlx.LanguageModel) -> None:
    said = complete(demo, prompt="Once upon", max_tokens=4, temperature=0, logprobs=2).whole["choices"][0]
    text = f"Once upon{said['text']}"
    judged = complete(demo, prompt=text, max_tokens=1, temperature=0, logprobs=2, echo=True)
    choice = judged.whole["choices"][0]
    found, count = choice["logprobs"], len(demo.tokenizer.encode_text("Once upon"))
    assert found["tokens"][count:-1] == said["logprobs"]["tokens"]
    assert found["token_logprobs"][count:-1] == pytest.approx(said["logprobs"]["token_logprobs"], abs=1e-4)
    assert [set(one) for one in found["top_logprobs"][count:-1]] == list(map(set, said["logprobs"]["top_logprobs"]))
    assert "".join(found["tokens"]) == choice["text"]
    assert [choice["text"].find(token) for token in found["tokens"][:4]] == found["text_offset"][:4]
    assert stitched(judged) == found


def test_ids_are_judged_one_for_one_and_the_first_cannot_be(demo: elm_mlx.LanguageModel) -> None:
    ids = demo.tokenizer.encode("Once upon a time")
    ask = completions.read({"prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 1}, strict=True)
    [scored] = asyncio.run(scored_prompts(ask, demo))
    assert (list(scored.ids), scored.logprobs[0], len(scored.logprobs)) == (ids, None, len(ids))


def test_bytes_of_no_character_have_names_of_their_own(demo: elm_mlx.LanguageModel) -> None:
    lead, middle = (demo.tokenizer.vocabulary[text] for text in ("<0xC3>", "<0xBC>"))
    banned = [id for id in range(demo.config.vocab_size) if id not in (lead, middle)]
    told = complete(demo, prompt="Once", max_tokens=6, seed=3, temperature=1, banned_ids=banned, logprobs=0)
    found = told.whole["choices"][0]["logprobs"]
    assert set(found["tokens"]) == {"bytes:\\xc3", "bytes:\\xbc"}
    assert stitched(told) == found
    assert found["text_offset"] == sorted(found["text_offset"])


# Chats, by models that a test scripts


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> elm_mlx.LanguageModel:
    return elm_mlx.load(scripts.write(tmp_path_factory.mktemp("chat") / "m", written.LLAMA_31))


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory: pytest.TempPathFactory) -> elm_mlx.LanguageModel:
    return elm_mlx.load(scripts.write(tmp_path_factory.mktemp("reasoner") / "m", TEMPLATE))


def say(patch: pytest.MonkeyPatch, lm: elm_mlx.LanguageModel, text: str, **body: Any) -> Told:
    scripts.say(patch, lm, text)
    return tell(chat, lm, **{"messages": HI, "max_tokens": 300, "temperature": 0} | body)


def test_a_chat_begins_with_its_role_and_ends_with_a_reason(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = say(monkeypatch, lm, "Zü, the 天 cat.<|eot_id|>", stream=True)
    choice = told.whole["choices"][0]
    message = {"role": "assistant", "content": "Zü, the 天 cat.", "refusal": None}
    assert choice == {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    assert told.chunks[0] == {
        "id": "chatcmpl-a1b2", "object": "chat.completion.chunk", "created": 1_750_000_000, "model": "demo",
        "system_fingerprint": f"elm-mlx-{elm_mlx.__version__}",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                     "finish_reason": None}],
    }  # fmt: skip
    deltas = [chunk["choices"][0]["delta"] for chunk in told.chunks]
    assert [list(delta) for delta in deltas[1:-1]] == [["content"]] * (len(deltas) - 2)
    assert (told.joined("content"), deltas[-1]) == (message["content"], {})
    assert told.reasons() == [None] * (len(deltas) - 1) + ["stop"]
    assert all("usage" not in chunk for chunk in told.chunks)


def test_the_numbers_of_a_stream_come_last_and_are_null_before(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = say(monkeypatch, lm, "the cat<|eot_id|>", n=2, **USAGE)
    *earlier, last = told.chunks
    assert all(chunk["usage"] is None for chunk in earlier)
    assert (last["choices"], last["usage"]) == ([], told.whole["usage"])
    assert [told.joined("content", index) for index in (0, 1)] == ["the cat"] * 2


def test_a_call_has_a_beginning_and_arguments_as_text(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = say(monkeypatch, lm, f"{CALL}; {CALL}<|eot_id|>", **TOOLS)
    message = told.whole["choices"][0]["message"]
    assert (message["content"], told.reasons()[-1]) == (None, "tool_calls")
    assert told.whole["choices"][0]["finish_reason"] == "tool_calls"
    assert [json.loads(one["function"]["arguments"]) for one in message["tool_calls"]] == [
        {"city": "Zü 天", "days": 2}
    ] * 2
    told_calls = [call for chunk in told.chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    for number, call in enumerate(message["tool_calls"]):
        begin, arguments = told_calls[2 * number : 2 * number + 2]
        function = {"name": "weather", "arguments": ""}
        assert begin == {"index": number, "id": call["id"], "type": "function", "function": function}
        assert arguments == {"index": number, "function": {"arguments": call["function"]["arguments"]}}
    assert len(told_calls) == 4
    assert message["tool_calls"][0]["id"].startswith("call_")


def test_without_parallel_calls_an_answer_ends_with_its_first_one(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = say(monkeypatch, lm, f"{CALL}; {CALL}<|eot_id|>", parallel_tool_calls=False, **TOOLS)
    assert len(told.whole["choices"][0]["message"]["tool_calls"]) == 1
    assert (told.whole["choices"][0]["finish_reason"], told.reasons()[-1]) == ("tool_calls", "tool_calls")
    assert told.whole["usage"]["completion_tokens"] == len(scripts.ids_of(lm, CALL))
    calls = [call["index"] for chunk in told.chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert calls == [0, 0]


def test_a_call_that_the_length_cuts_is_none(lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    told = say(monkeypatch, lm, f"{CALL}<|eot_id|>", max_tokens=9, **TOOLS)
    choice = told.whole["choices"][0]
    assert (choice["finish_reason"], told.reasons()[-1]) == ("length", "length")
    assert "tool_calls" not in choice["message"]
    assert not any("tool_calls" in chunk["choices"][0]["delta"] for chunk in told.chunks)


def test_reasoning_is_told_apart_and_counted(reasoner: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    told = say(monkeypatch, reasoner, "<think>the cat</think>the dog<|eot_id|>")
    message = told.whole["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("the cat", "the dog")
    assert (told.joined("reasoning_content"), told.joined("content")) == ("the cat", "the dog")
    counted = told.whole["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert counted == len(reasoner.tokenizer.encode_text("the cat"))


def entries(told: Told) -> list[Any]:
    """The log-probabilities of all events of a chat, one after the other."""
    return [one for chunk in told.chunks for one in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]


@pytest.mark.parametrize(
    ("text", "stop", "content"),
    [
        ("Zü, the 天 cat.<|eot_id|>", None, "Zü, the 天 cat."),
        ("the cat, the dog<|eot_id|>", [" dog"], "the cat, the"),
        ("the cat<|eot_id|>", ["cats", "x"], "the cat"),
    ],
)
def test_the_bytes_of_the_tokens_join_to_the_content(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch, text: str, stop: Any, content: str
) -> None:
    told = say(monkeypatch, lm, text, logprobs=True, top_logprobs=2, stop=stop)
    choice = told.whole["choices"][0]
    found = choice["logprobs"]["content"]
    assert choice["message"]["content"] == content
    assert b"".join(bytes(one["bytes"]) for one in found) == content.encode()
    assert entries(told) == found
    assert all(len(one["top_logprobs"]) == 2 for one in found)


def test_texts_that_end_otherwise_end_with_their_reasons(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = say(monkeypatch, lm, "the cat<|eot_id|>", max_tokens=1)
    assert (cut.whole["choices"][0]["finish_reason"], cut.reasons()[-1]) == ("length", "length")
    empty = say(monkeypatch, lm, "<|eot_id|>")
    assert (empty.whole["choices"][0]["message"]["content"], empty.joined("content")) == ("", "")
    assert empty.reasons() == [None, "stop"]


# Errors, models


def data_of(events: Iterable[Event]) -> list[Any]:
    return [event.data for event in events]


@pytest.mark.parametrize("dialect", [chat, completions])
def test_an_error_has_all_four_keys_alone_and_in_a_stream(dialect: ModuleType, facts: Facts) -> None:
    refusal = Refusal(503, "Busy.", "overloaded")
    error: Mapping[str, Any] = {"message": "Busy.", "type": "overloaded", "param": None, "code": None}
    assert dialect.refused(refusal) == {"error": error}
    body = {"messages": HI, "prompt": "Hi"}
    body.pop("prompt" if dialect is chat else "messages")
    events = dialect.events(dialect.read(body, strict=False), body, facts)
    assert data_of(events.fail(refusal)) == [{"error": error}]
    if openai_schemas.PATH.is_file():
        openai_schemas.check({"error": error}, "ErrorResponse")


def test_models_are_listed_with_their_context() -> None:
    one = model_of("owner/name", 1_750_000_000, 2048)
    assert (one["id"], one["context_length"], one["max_model_len"]) == ("owner/name", 2048, 2048)
    assert "context_length" not in model_of("a", 0)
    body = list_of([one])
    assert (body["object"], body["data"], body["models"]) == ("list", [one], [])
    assert (NO_EMBEDDINGS.status, NO_EMBEDDINGS.kind) == (400, "invalid_request_error")
    if openai_schemas.PATH.is_file():
        openai_schemas.check(body, "ListModelsResponse")
