"""OpenAI's lines and plain ones: what they may ask, what is refused by its name, and what their answers look like."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import elm_mlx
from elm_mlx.api import Completion, Stats, TokenLogprob
from elm_mlx.errors import InvalidRequest, NotEnoughMemory, PromptTooLong, Unsupported
from elm_mlx.jobs import openai, plain
from elm_mlx.jobs.ask import Ask
from elm_mlx.jobs.entry import Entry, key_of_result, read_entry
from elm_mlx.jobs.origin import Origin
from elm_mlx.protocols.token_texts import Token, TokenTexts

ORIGIN = Origin("some-model", 0)
DONE = Completion("Blue.", [5, 6], "stop", Stats(3, 2, 0.1, 30.0, 20.0, 0))
CHAT = [{"role": "user", "content": "Which colour?"}]


def entry(**fields: Any) -> Entry:
    return read_entry(1, json.dumps(fields).encode())


def chat(**body: Any) -> Entry:
    return entry(custom_id="a", method="POST", url="/v1/chat/completions", body={"messages": CHAT} | body)


def text(**body: Any) -> Entry:
    return entry(custom_id="a", method="POST", url="/v1/completions", body={"prompt": "Blue is"} | body)


# What is asked


def test_a_plain_line_asks_with_a_prompt_or_with_messages_and_options() -> None:
    assert entry(prompt="Hi").read_ask() == Ask({}, prompt="Hi")
    assert entry(prompt=[1, 2]).read_ask() == Ask({}, prompt=[1, 2], as_is=True)
    assert entry(id="x", messages=CHAT, seed=0).read_ask() == Ask({"seed": 0}, messages=CHAT)
    options = {"max_tokens": 1, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 7,
               "stop": ["\n", "User:"]}  # fmt: skip
    assert entry(prompt="", **options).read_ask() == Ask(options, prompt="")
    assert entry(prompt="Hi", max_tokens=None).read_ask() == Ask({}, prompt="Hi")


def test_a_line_of_openai_asks_the_same_and_its_prompts_are_given_as_they_are() -> None:
    assert chat(max_tokens=4).read_ask() == Ask({"max_tokens": 4}, messages=CHAT)
    assert chat(max_completion_tokens=4, top_k=2).read_ask() == Ask({"max_tokens": 4, "top_k": 2}, messages=CHAT)
    assert chat(stop="\n").read_ask() == Ask({"stop": "\n"}, messages=CHAT)
    assert text(seed=0).read_ask() == Ask({"seed": 0}, prompt="Blue is", as_is=True)
    for body in ({"messages": CHAT}, {"prompt": "Blue is"}):  # as Together has them
        assert entry(custom_id="a", body=body).read_ask() == entry(custom_id="a", method="POST", body=body).read_ask()


def test_penalties_and_biases_are_options_of_both_forms() -> None:
    options = {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5}
    expected = options | {"logit_bias": {15: -2.5, 7: 1}}
    asked: dict[str, Any] = options | {"logit_bias": {"15": -2.5, "7": 1}}
    assert chat(**asked).read_ask() == Ask(expected, messages=CHAT)
    assert entry(prompt="Hi", **asked).read_ask() == Ask(expected, prompt="Hi")
    more: dict[str, Any] = {"banned_ids": [3], "logprobs": 2}
    assert entry(prompt="Hi", **more).read_ask() == Ask(more, prompt="Hi")


@pytest.mark.parametrize("value", [[], "x", {"a": 1}, {"-1": 1}, {"1.5": 1}, {"": 1}, {"9" * 10: 1}], ids=str)
def test_a_logit_bias_without_ids_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="logit_bias is"):
        chat(logit_bias=value).read_ask()


def test_log_probabilities_are_asked_for_as_in_openais_bodies() -> None:
    assert chat(logprobs=True).read_ask().options == {"logprobs": 0}
    assert chat(logprobs=True, top_logprobs=3).read_ask().options == {"logprobs": 3}
    assert chat(logprobs=False, top_logprobs=0).read_ask().options == {}
    assert text(logprobs=3).read_ask().options == {"logprobs": 3}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (chat(logprobs=3), "body.logprobs is 3"),
        (chat(top_logprobs=3), "body.top_logprobs means nothing"),
        (text(logprobs=True), "body.logprobs as a number"),
        (text(top_logprobs=3), "Leave body.top_logprobs out"),
    ],
    ids=str,
)
def test_log_probabilities_that_are_asked_for_otherwise_are_refused(line: Entry, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        line.read_ask()


class Texts(TokenTexts):
    """The texts of some ids, without a tokenizer; 7 is a byte that is no character."""

    def __init__(self, texts: dict[int, str]) -> None:
        self.texts = {id: Token(text, text.encode()) for id, text in texts.items()} | {7: Token("\ufffd", b"\xe2")}

    def __getitem__(self, id: int) -> Token:
        return self.texts[id]

    def is_special(self, id: int) -> bool:
        return False

    def loses_blank(self, id: int) -> bool:
        return False


def test_an_answer_of_openai_has_log_probabilities_by_texts() -> None:
    entries = [TokenLogprob(-0.5, ((5, -0.5), (7, -math.inf))), TokenLogprob(-1.0, ((9, -0.25), (8, -1.0)))]
    done = replace(DONE, logprobs=entries)
    texts = Texts({5: "Bl", 6: "ue.", 8: " x", 9: " x"})

    def choice(ask: Ask) -> Any:
        return openai.answer("x", ORIGIN, ask, done, texts)["response"]["body"]["choices"][0]["logprobs"]

    first = {"token": "Bl", "logprob": -0.5, "bytes": [66, 108]}
    content = choice(Ask({}, messages=CHAT))["content"]
    assert content[0] == first | {"top_logprobs": [first, {"token": "\ufffd", "logprob": -9999.0, "bytes": [0xE2]}]}
    assert [one["token"] for one in content] == ["Bl", "ue."]
    assert choice(Ask({}, prompt="Hi")) == {
        "text_offset": [0, 2],
        "token_logprobs": [-0.5, -1.0],
        "tokens": ["Bl", "ue."],
        "top_logprobs": [{"Bl": -0.5, "bytes:\\xe2": -9999.0}, {" x": -0.25}],
    }


def test_the_texts_of_tokens_join_to_the_text(source: Path) -> None:
    tokenizer = elm_mlx.load(source).tokenizer
    ids = tokenizer.encode_text("a  Blue fox, then one more.")
    texts = TokenTexts(tokenizer)
    assert "".join(texts[id].text for id in ids[1:]) == tokenizer.decode(ids)[len(tokenizer.decode(ids[:1])) :]
    assert {texts[id].text: id for id in tokenizer.control_ids.values()} == tokenizer.control_ids


def test_an_answer_to_a_plain_line_has_the_log_probabilities_that_were_asked_for() -> None:
    entries = [TokenLogprob(-0.5, ((5, -0.5), (6, -math.inf))), TokenLogprob(-1.0)]
    record = plain.answer("x", ORIGIN, Ask({}, prompt="Hi"), replace(DONE, logprobs=entries))
    expected = [{"logprob": -0.5, "alternatives": [[5, -0.5], [6, None]]}, {"logprob": -1.0, "alternatives": []}]
    assert record["logprobs"] == expected
    assert key_of_result(json.dumps(record).encode()) == ('"x"', False)


def test_what_changes_no_answer_is_accepted() -> None:
    harmless = {"model": "gpt-4o", "user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "flex"}
    neutral = {"n": 1, "stream": False, "logprobs": False, "top_logprobs": None, "tools": [], "tool_choice": "none",
               "response_format": {"type": "text"}, "stop": None, "modalities": ["text"]}  # fmt: skip
    assert chat(**harmless, **neutral).read_ask() == chat().read_ask()
    assert text(best_of=1, echo=False, suffix="", logprobs=None).read_ask() == text().read_ask()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("n", True),
        ("stream", True),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("reasoning_effort", "low"),
        ("best_of", 2),
        ("echo", True),
        ("suffix", "the end"),
        ("modalities", ["text", "audio"]),
        ("functions", [{}]),
    ],
)
def test_what_elm_mlx_lacks_is_refused_by_its_name(name: str, value: object) -> None:
    for line in (chat(**{name: value}), text(**{name: value})):
        with pytest.raises(InvalidRequest, match=f"^body.{name} is .* elm-mlx cannot do that. Leave it out.$"):
            line.read_ask()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (entry(prompt="x", maxtokens=1), "maxtokens is not a field .* Did you mean max_tokens?"),
        (entry(prompt="x", stopp="y"), "stopp is not a field that elm-mlx knows. Did you mean stop?"),
        (entry(prompt="x", method="POST"), "method is not a field"),
        (chat(maxtokens=1), "body.maxtokens is not a field"),
        (chat(prompt="x"), "body.prompt is not a field"),
        (text(messages=CHAT), "body.messages is not a field"),
        (entry(custom_id="a", body={"prompt": "x"}, extra=1), "extra is not a field"),
        (entry(), "a prompt or messages, and not both"),
        (entry(prompt="x", messages=CHAT), "a prompt or messages, and not both"),
        (entry(prompt=None), "prompt is None"),
        (entry(prompt=["a", "b"]), "prompt is a list of prompts. Write a line for each"),
        (entry(prompt=[1, True]), "prompt is .* a text or a list of token ids"),
        (entry(custom_id="a"), "body is None"),
        (entry(custom_id="a", body=[]), "body is "),
        (entry(custom_id="a", body={}), "body must have messages or prompt, and not"),
        (
            entry(custom_id="a", body={"prompt": "x", "messages": CHAT}),
            "body must have messages or prompt, and not",
        ),
        (entry(custom_id="a", url="/v1/chat/completions", body={"prompt": "x"}), "body must have messages"),
        (entry(custom_id="a", url="/v1/embeddings", body={"input": "x"}), "url is '/v1/embeddings'"),
        (entry(custom_id="a", url=1, body={"prompt": "x"}), "url is 1"),
        (entry(custom_id="a", method="GET", body={"prompt": "x"}), "method is 'GET'; it must be POST"),
        (chat(max_tokens=1, max_completion_tokens=2), "mean the same and differ"),
        (chat(messages="Hi"), "messages is 'Hi'"),
        (chat(messages=[]), "messages is \\[\\]"),
        (chat(messages=[{"content": "x"}]), r"messages\[0\] is .* a role and a content"),
        (chat(messages=[{"role": "tool", "content": "x"}]), r"messages\[0\].role is 'tool'"),
        (chat(messages=[{"role": "user"}]), r"messages\[0\].content is None"),
        (
            chat(messages=[*CHAT, {"role": "assistant", "content": None, "tool_calls": [{}]}]),
            r"\[1\].tool_calls is not",
        ),
        (
            chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            r"messages\[0\].content\[0\] is no part",
        ),
    ],
    ids=str,
)
def test_a_mistake_is_named(line: Entry, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        line.read_ask()


def test_messages_are_read_as_openai_means_them() -> None:
    parts = [{"type": "text", "text": "Which "}, {"type": "text", "text": "colour?"}]
    given_ = [{"role": "developer", "content": "Be brief."}, {"role": "user", "name": "Ann", "content": parts}]
    said = {"role": "assistant", "content": "Blue.", "refusal": None, "annotations": [], "reasoning_content": "Sky."}
    assert chat(messages=[*given_, said]).read_ask().messages == [
        {"role": "system", "content": "Be brief."},
        *CHAT,
        {"role": "assistant", "content": "Blue.", "reasoning_content": "Sky."},
    ]


ANY = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab/"), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "x"]), inner))  # fmt: skip
NAMES = st.sampled_from(["prompt", "messages", "max_tokens", "url", "method", "body", "model", "n", "stop", "tools"])


@pytest.mark.parametrize("count", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_any_fields_are_an_ask_or_a_sentence(count: int) -> None:
    @settings(max_examples=count)
    @given(st.dictionaries(NAMES, ANY), st.dictionaries(NAMES, ANY))
    def check(fields: dict[str, Any], body: dict[str, Any]) -> None:
        for line in (fields, fields | {"body": body}, {"custom_id": "a", "body": body}):
            for form in (plain, openai):
                with suppress(InvalidRequest):
                    assert isinstance(form.read_ask(line), Ask)

    check()


# Answers


def test_a_plain_answer_has_these_fields() -> None:
    assert plain.answer("x", ORIGIN, Ask({}, prompt="Hi"), DONE) == {
        "id": "x", "text": "Blue.", "tokens": [5, 6], "finish_reason": "stop", "error": None,
    }  # fmt: skip
    assert plain.failure(3, ORIGIN, InvalidRequest("Why.", "Give {top_p}.")) == {
        "id": 3, "text": None, "tokens": [], "finish_reason": None, "error": "Why. Give top_p.",
    }  # fmt: skip


def test_an_answer_of_openai_has_its_fields_and_no_time() -> None:
    line = openai.answer("x", ORIGIN, Ask({}, messages=CHAT), DONE)
    assert list(line) == ["id", "custom_id", "response", "error"]
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("x", None, 200)
    body = line["response"]["body"]
    assert body == {
        "id": body["id"],
        "object": "chat.completion",
        "created": 0,
        "model": "some-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Blue.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    assert body["id"].startswith("chatcmpl-")
    completed = openai.answer("x", ORIGIN, Ask({}, prompt="Hi", as_is=True), DONE)["response"]["body"]
    assert (completed["object"], completed["choices"][0]["text"]) == ("text_completion", "Blue.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PromptTooLong("Long."), "context_length_exceeded"),
        (InvalidRequest("Wrong."), "invalid_request"),
        (NotEnoughMemory("Small."), "out_of_memory"),
        (Unsupported("Else."), "failed"),
    ],
)
def test_an_error_of_openai_has_a_code_and_a_sentence(error: Any, code: str) -> None:
    line = openai.failure("x", ORIGIN, error)
    assert (line["response"], line["error"]) == (None, {"code": code, "message": str(error)})


def test_long_errors_are_cut() -> None:
    assert len(plain.failure(1, ORIGIN, InvalidRequest("x" * 10_000))["error"]) == 1000


# Seeds


def test_seeds_and_names_follow_from_seed_and_id_alone() -> None:
    assert Origin("m", 0).seed_of("a") == Origin("other", 0).seed_of("a") == 5343935306724906182
    seeds = {Origin("m", seed).seed_of(id) for seed in (0, 1, -1, 2**70) for id in ("a", "b", 1, "1")}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert len({Origin("m", 0).name_of(id) for id in ("a", 1, "1", "ü")}) == 4
