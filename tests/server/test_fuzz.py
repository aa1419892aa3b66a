"""Bodies that nobody thought of: each is answered or refused in the form of its API, and never breaks the server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

FUZZED = settings(max_examples=400, database=None, derandomize=True,
                  suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                                         HealthCheck.data_too_large])  # fmt: skip
SAID = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
# A valid request of each API with many of its fields, from which the fuzzed ones are made.
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": SAID, "max_tokens": 2, "temperature": 0, "top_p": 1, "n": 1, "stop": ["x"], "seed": 0,
        "logprobs": True, "top_logprobs": 1, "logit_bias": {"5": 1}, "response_format": {"type": "json_object"},
        "tools": [TOOL], "tool_choice": "none", "stream": False, "stream_options": {"include_usage": True},
        "presence_penalty": 0, "frequency_penalty": 0, "user": "a", "metadata": {}, "model": "tiny-llama",
    },
    "/v1/completions": {
        "prompt": "Once", "max_tokens": 2, "temperature": 0, "top_p": 1, "n": 1, "stop": "x", "seed": 0, "logprobs": 1,
        "logit_bias": {"5": 1}, "echo": False, "suffix": None, "best_of": 1, "stream": False, "model": "demo",
    },
    "/v1/responses": {
        "input": "Hi", "max_output_tokens": 2, "instructions": "a", "temperature": 0, "top_p": 1, "stream": False,
        "tools": [{"type": "function", "name": "f", "parameters": {}}], "tool_choice": "auto", "store": False,
        "text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}, "metadata": {}, "model": "tiny-llama",
    },
    "/v1/messages": {
        "messages": SAID, "max_tokens": 2, "system": "a", "temperature": 0, "top_p": 1, "top_k": 1, "stream": False,
        "stop_sequences": ["x"], "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"}, "metadata": {}, "model": "tiny-llama",
    },
    "/tokenize": {"content": "Hi", "add_special": True, "model": "demo"},
    "/detokenize": {"tokens": [5, 6], "model": "demo"},
    "/apply-template": {"messages": SAID, "model": "tiny-llama"},
}  # fmt: skip
NUMBERS = st.sampled_from([0, -1, 1, 2, 1.5, 2**31, 2**63, 2**64, 10**40, -0.0, 1e308])
WORDS = st.sampled_from(["", "a", "\0", "\ud800", "😀" * 3, "../../etc/passwd", "http://a.example/", "{{ 1/0 }}",
                         "<|eot_id|>", "none", "required", "system", "user", "tool", "json_schema",
                         "a" * 5000])  # fmt: skip
KEYS = st.sampled_from(sorted({key for fields in VALID.values() for key in fields} | {
    "role", "content", "type", "name", "tool_calls", "tool_call_id", "function", "arguments", "schema", "json_schema",
    "$ref", "pattern", "image_url", "text", "id", "functions", "audio", "modalities", "grammar", "regex", "top_k",
    "chat_template", "chat_template_kwargs", "min_p", "repetition_penalty", "ignore_eos"}))  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all parts of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, part in inner for place in places(part, (*way, key)))]


def put(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    """A JSON value with another part in this place."""
    if not way:
        return new
    changed = value.copy()
    changed[way[0]] = put(value[way[0]], way[1:], new)
    return changed


@st.composite
def bodies(draw: st.DrawFn, path: str) -> Any:
    """Bodies for a route: some fields of the valid one, of whose parts some are anything."""
    body: Any = {key: part for key, part in VALID[path].items() if draw(st.integers(0, 3)) or key.startswith("max_")}
    for _ in range(draw(st.integers(0, 3))):
        body = put(body, draw(st.sampled_from(places(body))), draw(ANYTHING))
    if isinstance(body, dict) and draw(st.booleans()):
        body = body | draw(st.dictionaries(KEYS, ANYTHING, max_size=2))
    return body


@pytest.mark.parametrize("path", VALID)
def test_what_is_fuzzed_is_valid(house: Any, path: str) -> None:
    assert house.served.ask("POST", path, VALID[path]).status == 200


@pytest.mark.parametrize("path", VALID)
def test_any_body_has_an_answer(house: Any, path: str) -> None:
    @FUZZED
    @given(body=bodies(path))
    def asked(body: Any) -> None:
        answer = house.served.ask("POST", path, json.dumps(body).encode())
        assert answer.status < 500, (body, answer.body)
        if answer.status == 200:
            assert answer.headers["content-type"].startswith(("application/json", "text/event-stream"))
        else:
            assert answer.json["error"]["message"], body

    asked()
    assert house.served.ask("GET", "/health").status == 200


@pytest.mark.parametrize("path", VALID)
@FUZZED
@given(data=st.data())
def test_any_bytes_have_an_answer(house: Any, path: str, data: st.DataObject) -> None:
    whole = json.dumps(VALID[path]).encode()
    begin, end = sorted(data.draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)))))
    answer = house.served.ask("POST", path, whole[:begin] + data.draw(st.binary(max_size=6)) + whole[end:])
    assert answer.status < 500, answer.body
