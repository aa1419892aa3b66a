"""Connections within bounds of time, bytes and number: what is slow, endless or no HTTP gets an error, and an end."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from helpers.live_house import eventually
from helpers.live_server import live_app
from helpers.raw_http import ask, connected, read_answer, read_to_end, request

from elm_mlx.server.intake import Intake
from elm_mlx.server.settings import Limits
from elm_mlx.server.trace import Trace

LIMITS = Limits(connections=8, header_s=0.3, body_s=0.3, write_s=0.3, linger_s=0.2, body_bytes=10_000, headers=50)
LONG = 600.0


class Probe:
    """An app whose paths are what a test needs: /echo the length of a body, /flood bytes without end, /wait no answer
    until the client leaves. It counts what ends."""

    def __init__(self, limits: Limits) -> None:
        self.ended: list[str] = []
        self._echo = Intake(limits).around(self._echo_body)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].strip("/")
        try:
            await getattr(self, f"_{path}")(scope, receive, send)
        finally:
            self.ended.append(path)

    async def _echo_body(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await reply(send, str(len(body)).encode())

    async def _hello(self, scope: Any, receive: Any, send: Any) -> None:
        await reply(send, b"hello")

    async def _early(self, scope: Any, receive: Any, send: Any) -> None:
        await reply(send, b"no", status=401)

    async def _flood(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not self._is_over(await peek(receive)):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})

    @staticmethod
    def _is_over(message: Any) -> bool:
        return bool(message) and message["type"] == "http.disconnect"

    async def _wait(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


async def peek(receive: Any) -> Any:
    """What has come, without waiting for it."""
    import asyncio

    task = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    if task.done():
        return task.result()
    task.cancel()
    return None


async def reply(send: Any, body: bytes, status: int = 200) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[int, Probe]]:
    probe = Probe(LIMITS)
    with live_app(Trace(probe), LIMITS) as port:
        yield port, probe


@pytest.fixture
def port(served: tuple[int, Probe]) -> int:
    return served[0]


@pytest.fixture
def probe(served: tuple[int, Probe]) -> Probe:
    return served[1]


# Headers


def test_headers_that_do_not_end_are_cut_off(port: int) -> None:
    with connected(port) as one:
        one.sendall(b"GET /hello HTTP/1.1\r\nhost: localhost\r\nx: ")
        drip(one, b"y")
        answer = read_answer(one)
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert read_to_end(one) == b""


def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    with connected(port) as one:
        assert read_to_end(one) == b""


def test_headers_have_their_time_on_a_connection_that_is_used_again(port: int) -> None:
    with connected(port) as one:
        one.sendall(request("GET", "/hello"))
        assert read_answer(one).status == 200
        time.sleep(0.5)  # longer than headers may take: between two requests there is more time
        one.sendall(request("GET", "/hello"))
        assert read_answer(one).status == 200
        one.sendall(b"GET /hel")
        assert read_answer(one).status == 408


def test_headers_have_a_size(port: int) -> None:
    for size in (100_000, 10_000_000):
        with connected(port) as one:
            send_what_goes(one, b"GET /hello HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * size)
            assert read_answer(one).status == 431


@pytest.mark.parametrize(
    "raw",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
     b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\n bad\x00: x\r\n\r\n",
     b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
     b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
     b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_gets_an_error_and_an_end(port: int, raw: bytes) -> None:
    with connected(port) as one:
        one.sendall(raw)
        answer = read_answer(one)
        assert answer.status in (400, 501)
        assert set(answer.error) == {"message", "type", "param", "code"}
        assert read_to_end(one) == b""
    assert ask(port, "GET", "/hello").status == 200


# Bodies


def test_a_body_arrives_whole_however_it_is_cut(port: int) -> None:
    with connected(port) as one:
        one.sendall(request("POST", "/echo", transfer_encoding="chunked", content_type="application/json"))
        for _ in range(3):
            one.sendall(b"5\r\n12345\r\n")
        one.sendall(b"0\r\n\r\n")
        assert read_answer(one).body == b"15"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp", "multipart/form-data"]
)
def test_a_body_is_json_by_its_type(port: int, kind: str) -> None:
    answer = ask(port, "POST", "/echo", b"{}", content_type=kind)
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
    assert ask(port, "POST", "/echo", b"{}", content_type="Application/JSON; charset=utf-8").body == b"2"


def test_a_body_that_says_it_is_too_large_is_not_read(port: int) -> None:
    with connected(port) as one:
        one.sendall(request("POST", "/echo", content_length="99999999999", content_type="application/json"))
        answer = read_answer(one)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")


def test_a_body_is_counted_as_it_is_read(port: int) -> None:
    with connected(port) as one:
        one.sendall(request("POST", "/echo", transfer_encoding="chunked", content_type="application/json"))
        send_what_goes(one, b"400\r\n" + b"z" * 1024 + b"\r\n", times=2000)
        assert read_answer(one).status == 413
        assert read_to_end(one) == b""


def test_all_bodies_together_have_a_size() -> None:
    limits = replace(LIMITS, bodies_bytes=1000, body_s=LONG)
    with live_app(Trace(Probe(limits)), limits) as port, connected(port) as first:
        first.sendall(request("POST", "/echo", content_length="900", content_type="application/json") + b"z" * 800)
        assert eventually(lambda: ask(port, "POST", "/echo", b"z" * 300).status == 503)
        first.sendall(b"z" * 100)
        assert read_answer(first).body == b"900"
        assert ask(port, "POST", "/echo", b"z" * 300).status == 200


def test_a_body_that_does_not_come_is_not_waited_for(port: int) -> None:
    with connected(port) as one:
        one.sendall(request("POST", "/echo", content_length="100", content_type="application/json"))
        drip(one, b"y")
        answer = read_answer(one)
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert read_to_end(one) == b""


def test_who_is_refused_early_may_send_the_rest_but_not_for_ever(port: int) -> None:
    with connected(port) as one:
        one.sendall(request("POST", "/early", content_length="20"))
        assert read_answer(one).status == 401
        one.sendall(b"y" * 20 + request("GET", "/hello"))
        assert read_answer(one).status == 200
        one.sendall(request("POST", "/early", content_length="20000000"))
        assert read_answer(one).status == 401
        drip(one, b"y")
        assert read_to_end(one) == b""


def test_who_was_refused_early_and_sent_all_holds_no_connection_for_ever(port: int) -> None:
    with connected(port) as one:
        one.sendall(request("POST", "/early", content_length="20"))
        assert read_answer(one).status == 401
        one.sendall(b"y" * 20)
        assert read_to_end(one) == b""


# Readers, and who leaves


def test_a_client_that_takes_nothing_is_cut_off_and_its_request_ends(port: int, probe: Probe) -> None:
    with connected(port) as one:
        one.sendall(request("GET", "/flood"))
        assert eventually(lambda: "flood" in probe.ended)


def test_a_request_ends_when_its_client_leaves(port: int, probe: Probe) -> None:
    for extra in (b"", request("GET", "/hello")):  # one that has sent its next request already leaves, too
        probe.ended.clear()
        with connected(port) as one:
            one.sendall(request("GET", "/wait") + extra)
            time.sleep(0.05)
            assert not probe.ended
        assert eventually(lambda: "wait" in probe.ended)


def test_who_sends_requests_ahead_without_end_is_cut_off(port: int, probe: Probe) -> None:
    probe.ended.clear()
    with connected(port) as one:
        one.sendall(request("GET", "/wait"))
        send_what_goes(one, request("GET", "/hello"), times=100_000)
        assert eventually(lambda: "wait" in probe.ended)


def test_requests_one_after_another_without_waiting_are_answered_in_turn(port: int) -> None:
    with connected(port) as one:
        one.sendall(b"".join(request("POST", "/echo", b"z" * size) for size in range(40)))
        assert [read_exactly(one) for _ in range(40)] == [str(size).encode() for size in range(40)]


def test_there_are_only_so_many_connections(port: int) -> None:
    limits = replace(LIMITS, header_s=LONG, idle_s=LONG)
    with live_app(Trace(Probe(limits)), limits) as port:
        many = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(limits.connections)]
        with connected(port) as one:
            answer = read_answer(one)
            assert (answer.status, answer.error["code"]) == (503, "overloaded")
            assert 1 <= int(answer.headers["retry-after"]) <= 120
        for taken in many:
            taken.close()
        assert eventually(lambda: ask(port, "GET", "/hello").status == 200)


def test_who_leaves_in_the_middle_of_anything_harms_nobody(port: int) -> None:
    whole = request("POST", "/echo", b"z" * 100)
    for cut in range(1, len(whole), 7):
        with connected(port) as one:
            one.sendall(whole[:cut])
    assert eventually(lambda: ask(port, "GET", "/hello").status == 200)


def test_an_error_that_nobody_foresaw_is_a_500_of_this_request_alone(port: int) -> None:
    answer = ask(port, "GET", "/nothing_of_this_name")
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert b"nothing_of_this_name" not in answer.body
    assert json.loads(answer.body)
    assert ask(port, "GET", "/hello").status == 200


def drip(one: socket.socket, data: bytes) -> None:
    """Sends data again and again, slowly, until the other side has had enough."""

    def send() -> None:
        try:
            for _ in range(200):
                one.sendall(data)
                time.sleep(0.02)
        except OSError:
            return

    threading.Thread(target=send, daemon=True).start()


def send_what_goes(one: socket.socket, data: bytes, times: int = 1) -> None:
    """Sends data until the other side has had enough."""
    try:
        for _ in range(times):
            one.sendall(data)
    except OSError:
        return


def read_exactly(one: socket.socket) -> bytes:
    """Reads one response byte by byte, so that nothing of the next one is taken."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += one.recv(1)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return one.recv(length, socket.MSG_WAITALL)
