"""What goes wrong while a request is answered fails that request; the server lives on, or says that it cannot."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.live_house import Live, events_in, eventually, living

from elm_mlx.errors import ElmError, NotEnoughMemory
from elm_mlx.server.health import health


@pytest.fixture
def fresh() -> Iterator[Live]:
    """A server of the test's own, whose engine may be spoilt."""
    with living() as live:
        yield live


def spoil(live: Live, times: int) -> None:
    """Has so many next steps fail that decode; those that read prompts alone go well."""
    engine = live.lm._worker.engine
    step, left = engine.carry_out, [times]

    def carry_out(plan: Any) -> Any:
        if plan.rows and left[0]:
            left[0] -= 1
            raise ZeroDivisionError("injected")
        return step(plan)

    engine.carry_out = carry_out


def test_a_step_that_fails_fails_its_request_alone(fresh: Live) -> None:
    spoil(fresh, 1)
    response = fresh.post(prompt="Once", max_tokens=9)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "computing_failed")
    assert fresh.post(prompt="Once", max_tokens=2).status_code == 200


def test_a_stream_that_has_begun_tells_an_error_and_ends(fresh: Live) -> None:
    spoil(fresh, 1)
    response = fresh.post(prompt="Once", max_tokens=9, stream=True)
    assert response.status_code == 200
    assert events_in(response.text)[-1]["error"]["code"] == "computing_failed"


def test_an_engine_that_dies_comes_back_once(fresh: Live) -> None:
    dead = fresh.lm
    spoil(fresh, 2)
    for _ in range(2):
        fresh.post(prompt="Once", max_tokens=9)
    assert eventually(lambda: fresh.lm not in (dead, None))
    assert fresh.post(prompt="Once", max_tokens=2).status_code == 200
    assert health(fresh.house.shelf)[0] == 200
    assert not fresh.house.fatal.is_set()


def test_an_engine_that_dies_under_many_requests_comes_back_once(fresh: Live) -> None:
    dead = fresh.lm
    spoil(fresh, 2)
    with ThreadPoolExecutor(6) as pool:
        told = [*pool.map(lambda _: fresh.post(prompt="Once", max_tokens=9).status_code, range(6))]
    assert set(told) <= {200, 500, 503}
    assert eventually(lambda: fresh.lm not in (dead, None))
    assert not fresh.house.fatal.is_set()


def test_an_engine_that_does_not_come_back_ends_the_server(fresh: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ElmError("The device is gone.")

    monkeypatch.setattr(fresh.house.shelf._stock, "load", broken)
    spoil(fresh, 2)
    for _ in range(2):
        fresh.post(prompt="Once", max_tokens=9)
    assert eventually(fresh.house.fatal.is_set)
    assert "The device is gone." in fresh.house.why


def test_what_nobody_foresaw_is_logged_and_not_told(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("helpers.plain_dialect.whole", lambda *_: 1 / 0)
    with caplog.at_level(logging.ERROR, "elm_mlx.server"):
        response = live.post(prompt="Once", max_tokens=1)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "ZeroDivision" not in response.text
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert live.post(prompt="Once", max_tokens=1).status_code == 200


def test_a_request_that_can_never_fit_is_not_tried_again(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise NotEnoughMemory("It takes 9 GB, and 1 GB is there.", needed=9, available=1)

    monkeypatch.setattr(live.lm, "streams", full)
    response = live.post(prompt="Once")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "insufficient_memory")
    assert response.headers["x-should-retry"] == "false"
    assert "9 GB" in response.text


def test_health_tells_of_an_engine_that_hangs(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    from elm_mlx.device.thread import running

    assert health(live.house.shelf)[1]["status"] == "ok"
    thread = running()
    assert thread
    monkeypatch.setattr(thread, "is_busy", True)
    monkeypatch.setattr(thread, "last_progress", thread.last_progress - 1000)
    status, told = health(live.house.shelf)
    assert (status, told["status"]) == (503, "unhealthy")
    assert "no progress" in told["reason"]
    assert told["models"] == [{"name": "demo", "state": "loaded"}]


def test_the_house_counts_what_was_answered() -> None:
    with living() as live:
        live.post(prompt="Once upon a time", max_tokens=5)
        live.post(prompt="Once upon a time", max_tokens=5, stream=True)
        lines = live.house.figures().splitlines()
    asked = live.house.metrics.models["demo"].counters["prompt_tokens_total"]
    assert 'elm_mlx_request_success_total{model_name="demo",finished_reason="length"} 2' in lines
    assert 'elm_mlx_generation_tokens_total{model_name="demo"} 10' in lines
    assert f'elm_mlx_prompt_tokens_total{{model_name="demo"}} {asked}' in lines
    assert 'elm_mlx_time_to_first_token_seconds_count{model_name="demo"} 2' in lines
    assert 'elm_mlx_num_requests_running{model_name="demo"} 0' in lines
    assert 'elm_mlx_e2e_request_latency_seconds_bucket{model_name="demo",le="+Inf"} 2' in lines


def test_texts_become_tokens_and_texts_again(live: Live) -> None:
    tokens = live.post("/tokenize", content="Once upon").json()["tokens"]
    assert tokens == live.lm.tokenizer.encode_text("Once upon")
    assert live.post("/tokenize", content="Once upon", add_special=True).json()["tokens"][-len(tokens) :] == tokens
    assert live.post("/detokenize", tokens=tokens).json() == {"content": "Once upon"}
    assert live.post("/count", prompt="Once upon").json()["count"] == len(live.lm.tokenizer.encode("Once upon"))
    assert live.post("/detokenize", tokens=["x"]).status_code == 400
    assert live.post("/tokenize", content=3).json()["error"]["param"] == "content"
    live.lm.use_chat_template("zephyr")
    prompt = live.post("/apply-template", messages=[{"role": "user", "content": "Hi"}]).json()["prompt"]
    assert "<|user|>\nHi" in prompt
