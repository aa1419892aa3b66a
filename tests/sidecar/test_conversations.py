"""What a client of a sidecar can do: load, ask, stream, hold sessions, run tools, cancel, give memory back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints
from helpers.scripted import Script, call

import elm_mlx
from elm_mlx import demo
from elm_mlx.sidecar import models

GREEDY = {"temperature": 0}


def test_deltas_add_up_to_the_answer_which_is_the_library_s(talker: Any) -> None:
    done = talker.call("generate", prompt=demo.PROMPT, max_tokens=6, options=GREEDY)
    with elm_mlx.load() as lm:
        expected = lm.generate(demo.PROMPT, 6, **GREEDY)
    assert (done["text"], done["finish_reason"]) == (expected.text, "length")
    assert "".join(delta["text"] for delta in talker.notes("generate/delta")) == expected.text
    assert done["stats"]["generated_tokens"] == 6


def test_an_answer_may_come_whole_with_log_probabilities_or_with_snapshots(talker: Any) -> None:
    talker.seen.clear()
    options = {**GREEDY, "logprobs": 2, "logit_bias": {"7": -1}}
    done = talker.call("generate", prompt=[1, 2, 3], max_tokens=2, stream=False, options=options)
    assert talker.notes("generate/delta") == []
    assert [len(one["alternatives"]) for one in done["logprobs"]] == [2, 2]
    done = talker.call("generate", prompt=demo.PROMPT, max_tokens=4, snapshots=True, options=GREEDY)
    assert [one["text_so_far"] for one in talker.notes("generate/delta")][-1] == done["text"]


def test_a_session_keeps_what_was_said(talker: Any) -> None:
    opened = talker.call("session/new", instructions="Tell a story.", options=GREEDY, prewarm=True)
    session = {"session": opened["session"]}
    assert opened["model"] == "demo"
    first = talker.call("session/respond", **session, prompt="Of a fox.", max_tokens=4)
    talker.call("session/respond", **session, prompt="Go on.", max_tokens=4)
    messages = talker.call("session/transcript", **session)["messages"]
    assert [one["role"] for one in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[2]["content"] == first["text"]
    again = talker.call("session/new", transcript=messages)["session"]
    assert talker.call("session/transcript", session=again)["messages"] == messages
    talker.call("session/close", **session)
    assert talker.refusal("session/transcript", **session)["data"]["kind"] == "NotFound"


def test_an_answer_has_its_form_and_its_value(talker: Any) -> None:
    session = talker.call("session/new")["session"]
    options = {"schema": {"enum": ["fox", "bear"]}, **GREEDY}
    done = talker.call("session/respond", session=session, prompt="Which?", max_tokens=20, options=options)
    assert done["parsed"] in ("fox", "bear")


def test_a_request_is_cancelled_and_tells_what_came(talker: Any) -> None:
    number = talker.begin("generate", prompt=demo.PROMPT, options={**GREEDY, "banned_ids": [2]})
    while talker.read().get("method") != "generate/delta":
        pass
    talker.send(method="$/cancel", params={"id": number})
    error = talker.answer(number)["error"]
    assert (error["code"], error["data"]["kind"]) == (-32082, "Cancelled")
    assert error["data"]["completion"]["text"].startswith("there")


def test_a_cancelled_turn_leaves_the_session_as_it_was_and_usable(talker: Any) -> None:
    session = talker.call("session/new", options=GREEDY)["session"]
    number = talker.begin("session/respond", session=session, prompt="Go.", options={"banned_ids": [2]})
    while talker.read().get("method") != "session/delta":
        pass
    assert talker.refusal("session/respond", session=session, prompt="Go.")["data"]["kind"] == "ConcurrentRequests"
    talker.send(method="$/cancel", params={"id": number})
    talker.answer(number)
    assert talker.call("session/transcript", session=session)["messages"] == []
    assert talker.call("session/respond", session=session, prompt="Go.", max_tokens=1)["finish_reason"] == "length"


def test_a_request_that_has_not_begun_is_cancelled_and_answered(talker: Any) -> None:
    lines = [{"id": "early", "method": "memory/status"}, {"method": "$/cancel", "params": {"id": "early"}}]
    talker.write(b"".join(json.dumps({"jsonrpc": "2.0", **one}).encode() + b"\n" for one in lines))
    answer = talker.answer("early")
    assert "result" in answer or answer["error"]["code"] == -32082


def test_several_requests_are_answered_together(talker: Any) -> None:
    numbers = {talker.begin("generate", prompt=demo.PROMPT, max_tokens=4, stream=False) for _ in range(8)}
    answers = [talker.read() for _ in numbers]
    assert {one["id"] for one in answers} == numbers
    assert all(one["result"]["finish_reason"] for one in answers)


@pytest.mark.parametrize(
    ("method", "params", "said"),
    [
        ("generate", {"prompt": "a", "max_token": 1}, "Did you mean max_tokens?"),
        ("generate", {"prompt": "a", "options": {"temprature": 1}}, "Did you mean temperature?"),
        ("generate", {"prompt": "a", "options": {"temperature": -1}}, "temperature"),
        ("generate", {"prompt": "a", "options": {"logit_bias": {"x": 1}}}, "must be token ids"),
        ("generate", {}, "prompt is None"),
        ("generate", {"prompt": "a", "max_tokens": "many"}, "max_tokens is 'many'"),
        ("session/respond", {"prompt": "a"}, "session is missing"),
        ("session/new", {"transcript": "/etc/passwd"}, "transcript is '/etc/passwd'; it must be a list"),
        ("session/new", {"transcript": [{"role": "king"}]}, "Message 1 of the transcript"),
        ("session/new", {"tools": [{"name": "a b"}]}, "A tool has the name 'a b'"),
        ("memory/pressure", {"level": "panic"}, "warn, critical"),
        ("model/load", {"model": "demo", "bits": 3.5}, "bits is 3.5"),
        ("initialize", {"protocolVersion": 1, "processId": -1}, "no process -1"),
    ],
    ids=range(13),
)
def test_what_has_no_meaning_is_refused_with_a_sentence(talker: Any, method: str, params: Any, said: str) -> None:
    error = talker.refusal(method, **params)
    assert error["code"] == -32602
    assert said in error["message"]


def test_methods_and_names_that_there_are_not(talker: Any) -> None:
    assert talker.refusal("sesion/new")["code"] == -32601
    assert talker.refusal("generate", prompt="a", model="other")["code"] == -32066
    error = talker.refusal("model/load", model="owner/none")
    assert error["code"] == -32066
    assert "elm-mlx pull owner/none" in error["message"]
    assert [one["model"] for one in talker.call("model/list")["loaded"]] == ["demo"]


def test_the_first_request_introduces_the_client(open_pipes: Callable[..., Any]) -> None:
    pipes = open_pipes(introduce=False)
    assert "initialize" in pipes.refusal("model/list")["message"]
    assert "this is version 1" in pipes.refusal("initialize")["message"]
    answer = pipes.call("initialize", protocolVersion=9, clientInfo={"name": "test"})
    assert answer["protocolVersion"] == 1
    assert answer["serverInfo"] == {"name": "elm-mlx", "version": elm_mlx.__version__}
    assert "session/respond" in answer["capabilities"]["methods"]


def test_memory_is_given_back_and_sessions_outlive_their_model(pipes: Any) -> None:
    loaded = pipes.call("model/load", chat_template="zephyr")
    assert (loaded["model"], loaded["has_chat_template"]) == ("demo", True)
    assert pipes.notes("model/progress")[-1]["stage"] == "loading"
    session = pipes.call("session/new", options=GREEDY)["session"]
    pipes.call("session/respond", session=session, prompt="Of a fox.", max_tokens=4)
    assert pipes.call("memory/pressure", level="warn")["unloaded"] == []
    assert pipes.call("memory/pressure", level="critical")["unloaded"] == ["demo"]
    assert pipes.call("memory/status")["models"] == [{"model": "demo", "in_memory": False, "requests": 0}]
    pipes.call("session/respond", session=session, prompt="Go on.", max_tokens=4)  # loads it again
    assert len(pipes.call("session/transcript", session=session)["messages"]) == 4
    assert pipes.refusal("model/load")["message"].startswith("The model demo is held already")
    assert pipes.call("model/unload") == {"model": "demo", "closed_sessions": [session]}


def test_loading_is_cancelled(pipes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(directory: Any, bits: Any, *, progress: Any, **sizes: Any) -> Any:
        while True:
            progress(1, 2)

    monkeypatch.setattr(elm_mlx, "load", endless)
    number = pipes.begin("model/load")
    assert pipes.read()["params"] == {"request": number, "stage": "loading", "done": 1, "total": 2}
    pipes.send(method="$/cancel", params={"id": number})
    assert pipes.answer(number)["error"]["data"]["kind"] == "Cancelled"
    assert pipes.call("model/list")["loaded"] == []


def test_a_model_that_has_died_is_loaded_again(pipes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    load = elm_mlx.load
    monkeypatch.setattr(elm_mlx, "load", lambda *given, **named: made.append(load(*given, **named)) or made[-1])
    pipes.call("model/load")
    made[0].close()
    assert pipes.call("memory/pressure", level="warn")["unloaded"] == []
    assert pipes.call("generate", prompt=demo.PROMPT, max_tokens=1)["finish_reason"] == "length"
    assert len(made) == 2


SCHEMA = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """What the model says: one call, then an answer."""
    folder = checkpoints.write(tmp_path / "model", checkpoints.LLAMA)
    template = "{{ messages[0].content }}{% if tools %}{{ tools | tojson }}{% endif %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    lm, written = elm_mlx.load(folder), Script([[call("weather", city="Rome")], "Sun."])
    monkeypatch.setattr(lm, "chat_stream", written)
    monkeypatch.setattr(models, "load", lambda *_: lm)
    return written


def ask_with_tool(pipes: Any) -> tuple[int, dict[str, Any]]:
    """(the request for an answer, the request of the sidecar's to run a tool)."""
    session = pipes.call("session/new", tools=[SCHEMA])["session"]
    number = pipes.begin("session/respond", session=session, prompt="How is it?")
    while (message := pipes.read()).get("method") != "tool/call":
        pipes.seen.append(message)
    params = {"request": number, "session": session, "name": "weather", "arguments": {"city": "Rome"}}
    assert message["params"] == params
    return number, message


def test_the_client_runs_the_tools(pipes: Any, script: Script) -> None:
    number, message = ask_with_tool(pipes)
    pipes.send(id=message["id"], result={"sky": "clear"})
    assert pipes.answer(number)["result"]["text"] == "Sun."
    assert script.asked[1][0][-1]["content"] == '{"sky": "clear"}'


def test_the_model_is_told_where_a_tool_failed(pipes: Any, script: Script) -> None:
    number, message = ask_with_tool(pipes)
    pipes.send(id=message["id"], error={"code": 1, "message": "No such city."})
    assert pipes.answer(number)["result"]["text"] == "Sun."
    assert "No such city." in script.asked[1][0][-1]["content"]


def test_a_tool_that_nobody_waits_for_is_told_so(pipes: Any, script: Script) -> None:
    number, message = ask_with_tool(pipes)
    pipes.send(method="$/cancel", params={"id": number})
    assert pipes.answer(number)["error"]["data"]["kind"] == "Cancelled"
    pipes.call("memory/status")
    assert pipes.notes("$/cancel") == [{"id": message["id"]}]
