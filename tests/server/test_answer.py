"""What stands between HTTP and the engine: requests are answered, whole or as they come, or refused in words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.live_house import Live, events_in, living

import elm_mlx
from elm_mlx.protocols.ask import Ask
from elm_mlx.server.asking import is_light

PROMPT = "Once upon a time"


def test_an_answer_is_the_one_that_the_library_gives(live: Live, demo: elm_mlx.LanguageModel) -> None:
    given = live.post(prompt=PROMPT, max_tokens=12).json()
    assert given["answers"][0]["text"] == demo.generate(PROMPT, 12).text
    assert given["model"] == "demo"


def test_a_stream_has_the_same_text_after_a_sign_of_life(live: Live, demo: elm_mlx.LanguageModel) -> None:
    response = live.post(prompt=PROMPT, max_tokens=12, stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.text.startswith(":")
    begin, *pieces, finish, done = events_in(response.text)
    assert begin == {"begin": [len(demo.tokenizer.encode(PROMPT))]}
    assert "".join(piece["text"] for piece in pieces) == demo.generate(PROMPT, 12).text
    assert finish == {"index": 0, "finish": "length"}
    assert done == "[DONE]"


def test_several_answers_to_several_prompts_are_those_of_the_library(live: Live, demo: elm_mlx.LanguageModel) -> None:
    asked = {"prompt": [PROMPT, "The cat"], "n": 2, "max_tokens": 3, "options": {"temperature": 1.0, "seed": 4}}
    wanted = [one.text for prompt in asked["prompt"] for one in demo.completions(prompt, 2, 3, temperature=1.0, seed=4)]
    assert [one["text"] for one in live.post(**asked).json()["answers"]] == wanted
    told = events_in(live.post(**asked, stream=True).text)
    texts = [
        "".join(event["text"] for event in told[1:-1] if event["index"] == i and "text" in event) for i in range(4)
    ]
    assert texts == wanted


def test_filters_without_a_temperature_are_no_mistake_of_a_client(live: Live, demo: elm_mlx.LanguageModel) -> None:
    options = {"top_p": 0.9, "top_k": 5, "min_p": 0.1}
    response = live.post(prompt=PROMPT, max_tokens=4, options=options)
    assert demo.is_greedy
    assert response.json()["answers"][0]["text"] == demo.generate(PROMPT, 4).text


def test_many_requests_at_once_get_their_own_answers(demo: elm_mlx.LanguageModel) -> None:
    prompts = [f"{PROMPT} there were {number} cats" for number in range(8)]
    wanted = [one.text for one in demo.batch(prompts, 3)]
    with living(max_queue=32) as live, ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> str:
            if number % 2:
                return str(live.post(prompt=prompts[number], max_tokens=3).json()["answers"][0]["text"])
            told = events_in(live.post(prompt=prompts[number], max_tokens=3, stream=True).text)
            return "".join(event.get("text", "") for event in told[1:-1])

        assert list(pool.map(ask, range(8))) == wanted


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "a model that is not there": ({"model": "nobody", "prompt": "Hi"}, 404, "model_not_found"),
    "no name": ({"model": "", "prompt": "Hi"}, 400, "invalid_value"),
    "a name that is no text": ({"model": 7, "prompt": "Hi"}, 400, "invalid_value"),
    "a path": ({"model": "/etc", "prompt": "Hi"}, 404, "model_not_found"),
    "too long a prompt": ({"prompt": [[5] * 600]}, 400, "context_length_exceeded"),
    "an option without a meaning": ({"prompt": "Hi", "options": {"temperature": -1}}, 400, "invalid_value"),
    "a form that nothing has": (
        {"prompt": "Hi", "options": {"schema": {"type": "string", "maxLength": -1}}}, 400, "not_enforceable"
    ),
    "a form that is no form": ({"prompt": "Hi", "options": {"regex": "("}}, 400, "not_enforceable"),
    "a chat without a template": ({"messages": [{"role": "user", "content": "Hi"}]}, 400, "no_chat_template"),
    "an id that the model lacks": ({"prompt": [[10**9]]}, 400, "invalid_value"),
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_answered_gets_a_status_and_a_code(live: Live, why: str, streamed: bool) -> None:
    body, status, code = REFUSED[why]
    response = live.post(**body, stream=streamed)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "Traceback" not in response.text


def test_too_long_a_prompt_is_refused_in_the_words_that_clients_look_for(live: Live) -> None:
    message = live.post(prompt=[[5] * 600]).json()["error"]["message"]
    assert message.startswith("This model's maximum context length is 512 tokens. However, you requested 601 tokens")


def test_an_unknown_model_is_refused_with_the_names_that_there_are(live: Live) -> None:
    assert "demo, gpt" in live.post(model="nobody", prompt="Hi").json()["error"]["message"]


@pytest.mark.parametrize("name", ["demo", "gpt", "default", "default_model", None])
def test_every_name_of_the_first_model_is_answered_by_it(live: Live, name: str | None) -> None:
    assert live.post(model=name, prompt="Hi", max_tokens=1).json()["model"] == "demo"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b'{"a":1,"a":2}', b'{"prompt":NaN}', b"[" * 100_000, b'{"prompt":"\\ud800"}']
)
def test_a_body_that_is_no_object_is_refused(live: Live, body: bytes) -> None:
    response = live.client.post("/ask", content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_value")


def test_fields_without_an_effect_are_told(live: Live) -> None:
    response = live.post(prompt="Hi", max_tokens=1, **{"fancy\r\nx: y": 1})
    assert response.status_code == 200
    assert response.headers["x-ignored-fields"] == "fancy??x??y"


def test_a_begun_message_is_continued(live: Live, demo: elm_mlx.LanguageModel) -> None:
    live.lm.use_chat_template("zephyr")
    demo.use_chat_template("zephyr")
    asked = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The cat sat "}]
    prompt = demo.chat_prompt(asked, goes_on=True)
    assert demo.tokenizer.decode(prompt).endswith("The cat sat ")
    given = live.post(messages=asked, goes_on=True, max_tokens=6).json()["answers"][0]["text"]
    assert given == demo.generate(prompt, 6).text
    assert live.post(messages=asked[:1], goes_on=True).status_code == 400


def test_no_more_than_the_context_that_was_set_is_used() -> None:
    with living(context=24) as live:
        answer = live.post(prompt=[[5] * 20]).json()["answers"][0]
        assert answer == {**answer, "finish": "length", "tokens": 4}
        assert "context length is 24 tokens" in live.post(prompt=[[5] * 24]).json()["error"]["message"]


@pytest.mark.parametrize(
    "ask",
    [
        Ask(None, prompts=("x" * 3000,)),
        Ask(None, prompts=(list(range(3000)),)),
        Ask(None, messages=[{"role": "user", "content": "x" * 3000}]),
        Ask(None, prompts=("x",), options={"logit_bias": {1: 0.0}, "stop": ["x" * 300] * 10}),
        Ask(None, messages=[], template_variables={"more": ["x"] * 3000}),
    ],
)
def test_what_takes_long_to_read_keeps_no_other_request_waiting(ask: Ask) -> None:
    assert not is_light(ask)
    assert is_light(Ask(None, prompts=("Once upon a time",)))
