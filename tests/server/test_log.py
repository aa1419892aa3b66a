"""The log: a line a request, with what an owner needs and nothing that is its client's own."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.live_house import eventually
from helpers.live_server import live_app
from helpers.raw_http import ask, connected, request

from elm_mlx.server.log import JsonLines, Line, TextLines, clean, set_up_log
from elm_mlx.server.trace import Trace

LINE = Line("POST", "/v1/completions", 200, 0.25, "req_1", 5, 7)
SAID = "what a client has asked"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers, after two tokens; /wait waits until the client leaves, and /fail fails."""
    if scope["path"] == "/fail":
        raise RuntimeError(SAID)
    while scope["path"] == "/wait" and (await receive())["type"] != "http.disconnect":
        pass
    scope["state"]["completion_tokens"] = 2
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with live_app(Trace(app)) as port:
        yield port


def lines(caplog: pytest.LogCaptureFixture) -> list[Line]:
    return [record.__dict__["request"] for record in caplog.records if "request" in record.__dict__]


def test_a_request_has_one_line_without_its_query(port: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "elm_mlx.server")
    answer = ask(port, "GET", "/a/path?key=secret", authorization="Bearer secret")
    assert eventually(lambda: bool(lines(caplog)))
    (line,) = lines(caplog)
    assert (line.method, line.path, line.status, line.completion_tokens) == ("GET", "/a/path", 200, 2)
    assert line.request_id == answer.headers["x-request-id"]
    assert "secret" not in caplog.text


def test_a_client_that_left_is_a_499(port: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "elm_mlx.server")
    with connected(port) as one:
        one.sendall(request("GET", "/wait"))
        time.sleep(0.05)
        assert not lines(caplog)
    assert eventually(lambda: bool(lines(caplog)))
    assert lines(caplog)[0].status == 499


def test_a_failure_is_logged_with_its_place_and_without_its_words_which_may_be_a_prompts(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "elm_mlx.server")
    answer = ask(port, "GET", "/fail")
    assert eventually(lambda: bool(lines(caplog)))
    assert lines(caplog)[0].status == answer.status == 500
    assert "raise RuntimeError" in caplog.text
    assert SAID not in caplog.text
    assert answer.headers["x-request-id"] in caplog.text


def test_no_path_forges_a_line_or_moves_a_cursor() -> None:
    forged = clean("/\n2026 GET /admin 200\x1b[2J" + "x" * 10_000)
    assert forged.isprintable()
    assert len(forged) == 200


def test_lines_are_for_people_or_for_programs() -> None:
    record = logging.LogRecord("elm_mlx.server", logging.INFO, "", 0, "%s", (LINE,), None)
    record.__dict__["request"] = LINE
    told = json.loads(JsonLines().format(record))
    assert told["path"] == LINE.path
    assert (told["prompt_tokens"], told["completion_tokens"], told["level"]) == (5, 7, "info")
    assert TextLines().format(record).endswith("Z POST /v1/completions 200 0.250 s 5 + 7 tokens req_1")
    other = logging.LogRecord("elm_mlx.server", logging.WARNING, "", 0, "two\nlines", (), None)
    assert json.loads(JsonLines().format(other))["message"] == "two\nlines"
    assert "\n" not in JsonLines().format(other)
    assert "warning: two" in TextLines().format(other)


def test_the_log_goes_to_standard_error_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loggers = [logging.getLogger(name) for name in ("elm_mlx.server", "uvicorn.error", "asyncio")]
    before = [(one.handlers, one.propagate, one.level) for one in loggers]
    try:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        set_up_log("text")
        set_up_log("json")
        loggers[0].info("begun")
        loggers[1].warning("of no use to anyone")
        (line,) = sys.stderr.getvalue().splitlines()  # type: ignore[attr-defined]
        assert json.loads(line)["message"] == "begun"
    finally:
        for one, (handlers, propagate, level) in zip(loggers, before, strict=True):
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)
