"""What no honest client sends gets an error, and the server then answers the next request: no crash, no hang."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from helpers import served as serving_helper
from helpers import wire
from helpers.served import Served

CHAT, COMPLETIONS, HEALTH = "/v1/chat/completions", "/v1/completions", "/health"
GOOD = {"prompt": "Once upon a time", "max_tokens": 2, "temperature": 0}
EVIL = "evil.example"
REFUSED = range(400, 500)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server that after all attacks has nothing left of them, and answers as if there had been none."""
    with serving_helper.serving() as running:
        yield running
        answer = running.ask("POST", COMPLETIONS, GOOD)
        assert answer.json["usage"]["completion_tokens"] == GOOD["max_tokens"], answer.body
        assert running.busy == 0


@pytest.fixture(autouse=True)
def _still_answers(served: Served) -> Iterator[None]:
    """After each attack the next client is answered."""
    yield
    assert served.ask("GET", HEALTH).status == 200


def only_status(came: bytes) -> int:
    """The status of the only response."""
    found = wire.statuses(came)
    assert len(found) == 1, came[:2000]
    return found[0]


def refused_body(served: Served, body: bytes, path: str = CHAT, **headers: str) -> int:
    """The status for a body, once its error has OpenAI's form."""
    answer = served.ask("POST", path, body, headers)
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    return answer.status


# The form of a request, in HTTP.

FRAMES = {
    "a negative length": ("Content-Length: -1",),
    "a length that is no number": ("Content-Length: two",),
    "a length of 400 digits": ("Content-Length: " + "9" * 400,),
    "two lengths": ("Content-Length: 2", "Content-Length: 3"),
    "lengths in a list": ("Content-Length: 2, 3",),
    "a signed length": ("Content-Length: +2",),
    "an unknown transfer coding": ("Transfer-Encoding: gzip",),
    "chunked twice": ("Transfer-Encoding: chunked, chunked",),
    "chunked and identity": ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    "chunked, misspelt": ("Transfer-Encoding: xchunked",),
    "a blank before the colon": ("Transfer-Encoding : chunked",),
    "two hosts": (f"Host: {EVIL}",),
    "a NUL in a header": ("X-Name: a\0b",),
    "a name with a blank": ("X Name: a",),
    "no colon": ("nonsense",),
}


@pytest.mark.parametrize("lines", FRAMES.values(), ids=FRAMES.keys())
def test_a_request_whose_frame_is_doubtful_is_refused(served: Served, lines: tuple[str, ...]) -> None:
    request = wire.head("POST", COMPLETIONS, "Content-Type: application/json", *lines, port=served.port)
    assert only_status(wire.exchange(served.port, request + b"{}")) in REFUSED


def test_a_length_beside_chunks_never_hides_a_second_request(served: Served) -> None:
    hidden = f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()
    body = b"0\r\n\r\n" + hidden
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Transfer-Encoding: chunked")
    came = wire.exchange(served.port, wire.head("POST", COMPLETIONS, *lines, port=served.port) + body)
    assert only_status(came) in REFUSED
    assert b"elm_mlx_" not in came


PREFACES = {
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "TLS": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
    "another protocol": b"EHLO you\r\n\r\n",
    "a NUL in the path": b"GET /v1/models\0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a blank in the path": b"GET /v1 models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "only line ends": b"\r\n" * 40000,
}


@pytest.mark.parametrize("start", PREFACES.values(), ids=PREFACES.keys())
def test_what_is_no_request_of_http_1_1_is_refused(served: Served, start: bytes) -> None:
    found = wire.statuses(wire.exchange(served.port, start))
    assert found or len(start) > 1000  # one that is cut off while it writes may lose its answer
    assert all(status in REFUSED for status in found)


def test_ten_thousand_headers_are_too_many(served: Served) -> None:
    lines = [f"X-{number}: {number}" for number in range(10_000)]
    came = wire.exchange(served.port, wire.head("GET", HEALTH, *lines, port=served.port))
    assert not came or only_status(came) in REFUSED


def test_a_header_of_a_megabyte_is_too_long(served: Served) -> None:
    came = wire.exchange(served.port, wire.head("GET", HEALTH, "X-Long: " + "a" * 2**20, port=served.port))
    assert not came or only_status(came) in REFUSED


def test_a_target_of_a_megabyte_is_too_long(served: Served) -> None:
    came = wire.exchange(served.port, wire.head("GET", "/" + "a" * 2**20, port=served.port))
    assert not came or only_status(came) in REFUSED


def test_pipelined_requests_are_answered_in_their_order(served: Served) -> None:
    body = json.dumps(GOOD).encode()
    first = wire.post(COMPLETIONS, body, port=served.port).replace(b"Connection: close\r\n", b"")
    missing = wire.head("GET", "/nowhere", port=served.port).replace(b"Connection: close\r\n", b"")
    came = wire.exchange(served.port, first + missing + wire.head("GET", HEALTH, port=served.port))
    assert wire.statuses(came) == [200, 404, 200]


# Where a request goes, and from where it says it comes.


@pytest.mark.parametrize(
    "host", [EVIL, f"{EVIL}:8080", "localhost.evil.example", "127.0.0.1.evil.example", "a@b", "[::"]
)
def test_another_host_is_refused(served: Served, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/v1/models"), ("POST", COMPLETIONS)):
        request = wire.head(method, path, "Content-Length: 0", port=served.port, host=host)
        assert only_status(wire.exchange(served.port, request)) in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_names_of_this_machine_are_hosts_with_any_port(served: Served, host: str) -> None:
    for name in (host, f"{host}:1", f"{host}:{served.port}"):
        assert only_status(wire.exchange(served.port, wire.head("GET", HEALTH, port=served.port, host=name))) == 200


@pytest.mark.parametrize("origin", [f"https://{EVIL}", "null", "http://localhost.evil.example", "file://", "garbage"])
def test_a_page_of_another_origin_gets_nothing(served: Served, origin: str) -> None:
    for method, path, body in (("GET", "/v1/models", None), ("POST", COMPLETIONS, GOOD)):
        answer = served.ask(method, path, body, {"Origin": origin})
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    assert "access-control-allow-origin" not in served.ask("OPTIONS", COMPLETIONS, headers=asked).headers


def test_a_simple_request_of_a_foreign_page_runs_nothing(served: Served) -> None:
    before = served.metric("generation_tokens_total")
    body = json.dumps(GOOD).encode()
    answer = served.ask("POST", COMPLETIONS, body, {"Origin": f"https://{EVIL}", "Content-Type": "text/plain"})
    assert answer.status in (403, 415)
    assert served.metric("generation_tokens_total") == before


TARGETS = ["http://evil.example/health", "http://evil.example:80/v1/models", "evil.example:443", "*",
           "//evil.example/health", "health"]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_is_no_path_is_refused(served: Served, target: str) -> None:
    assert only_status(wire.exchange(served.port, wire.head("GET", target, port=served.port))) in REFUSED


CLIMBING = ["/../../../../etc/passwd", "/..%2f..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page/../../app.py",
            "/static/..%5c..%5cetc/passwd", "/v1/models/../../../etc/passwd", "/v1/models/%2fetc%2fpasswd",
            "/etc/passwd", "//etc/passwd", "/page/%00", "/%00", "/v1/models/%00", "/v1/models/a%0d%0aX-Evil:%201",
            "/page.py", "/index.html/..%2fpage.py"]  # fmt: skip


@pytest.mark.parametrize("path", CLIMBING)
def test_no_path_leads_to_a_file_of_the_machine(served: Served, path: str) -> None:
    came = wire.exchange(served.port, wire.head("GET", path, port=served.port))
    assert only_status(came) in REFUSED
    assert b"root:" not in came
    assert b"\r\nX-Evil" not in came


def test_a_web_socket_is_not_opened(served: Served) -> None:
    lines = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
    for path in ("/", CHAT, "/v1/responses"):
        came = wire.exchange(served.port, wire.head("GET", path, *lines, port=served.port))
        assert 101 not in wire.statuses(came)


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PUT", "DELETE", "PATCH", "BREW"])
def test_other_methods_are_refused(served: Served, method: str) -> None:
    came = wire.exchange(served.port, wire.head(method, COMPLETIONS, "Content-Length: 0", port=served.port))
    assert only_status(came) == 405
    assert b"allow: " in came.lower()


# Bodies.


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a",
                                  "application/jsonp", "", "application/json, text/plain", "text/json"])  # fmt: skip
def test_a_body_that_does_not_say_that_it_is_json_is_refused(served: Served, kind: str) -> None:
    assert refused_body(served, json.dumps(GOOD).encode(), COMPLETIONS, **{"Content-Type": kind}) == 415


BODIES = {
    "nothing": b"",
    "no JSON": b"prompt",
    "half of an object": b'{"prompt": "a"',
    "two objects": b"{}{}",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "invalid UTF-8": b'{"prompt": "\xff\xfe"}',
    "a cut character": b'{"prompt": "\xe2\x82"}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "a lone surrogate": b'{"prompt": "\\ud800"}',
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "infinity": b'{"prompt": "a", "temperature": Infinity}',
    "a number beyond floats": b'{"prompt": "a", "temperature": 1e999}',
    "a number of 100,000 digits": b'{"prompt": "a", "seed": ' + b"9" * 100_000 + b"}",
    "lists to a depth of 100,000": b"[" * 100_000 + b"]" * 100_000,
    "objects to a depth of 100,000": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a deep field": b'{"prompt": "a", "metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "only openings": b"[" * 1_000_000,
    "control characters": b'{"prompt": "a\x01"}',
    "a comment": b'{"prompt": "a" /* b */}',
}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_no_request_is_refused(served: Served, body: bytes, path: str) -> None:
    assert refused_body(served, body, path) == 400


def test_a_compressed_body_is_refused(served: Served) -> None:
    assert refused_body(served, b"\x1f\x8b\x08\0", COMPLETIONS, **{"Content-Encoding": "gzip"}) in (400, 415)


def test_a_giant_body_is_refused_before_it_is_sent(served: Served) -> None:
    lines = ("Content-Type: application/json", f"Content-Length: {2**40}")
    assert only_status(wire.exchange(served.port, wire.head("POST", CHAT, *lines, port=served.port))) == 413


def test_a_giant_body_that_does_not_say_its_length_is_cut(served: Served) -> None:
    lines = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    came = wire.exchange(served.port, wire.head("POST", CHAT, *lines, port=served.port), *[piece] * 1024)
    assert not came or only_status(came) == 413


def test_a_chunk_that_says_a_giant_length_is_no_memory(served: Served) -> None:
    lines = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    with wire.connect(served.port) as connection:
        connection.sendall(wire.head("POST", CHAT, *lines, port=served.port) + b"fffffffffff\r\n{")
        connection.shutdown(socket.SHUT_WR)
        came = wire.to_the_end(connection)
    assert not came or only_status(came) in REFUSED


# Connections that do not go on.


def test_clients_that_send_a_byte_at_a_time_keep_nobody_waiting(served: Served) -> None:
    request = wire.post(COMPLETIONS, json.dumps(GOOD).encode(), port=served.port)
    with ExitStack() as stack:
        slow = [stack.enter_context(wire.connect(served.port)) for _ in range(100)]
        for place in range(20):
            for connection in slow:
                connection.sendall(request[place : place + 1])
        assert served.ask("POST", COMPLETIONS, GOOD).status == 200
    # All of them are gone now, in the middle of their requests.


def test_clients_that_say_nothing_keep_nobody_waiting(served: Served) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(wire.connect(served.port))
        assert served.ask("POST", COMPLETIONS, GOOD).status == 200


@pytest.mark.parametrize("sent", [1, 30, -1], ids=["a byte", "half a line", "all but a byte"])
def test_a_request_that_ends_too_early_ends_its_connection(served: Served, sent: int) -> None:
    request = wire.post(COMPLETIONS, json.dumps(GOOD).encode(), port=served.port)
    with wire.connect(served.port) as connection:
        connection.sendall(request[:sent])
        connection.shutdown(socket.SHUT_WR)  # half open: it still reads
        came = wire.to_the_end(connection)
    assert not came or only_status(came) in REFUSED


def test_a_connection_that_is_reset_in_an_answer_cancels_it(served: Served) -> None:
    body = json.dumps(serving_helper.ENDLESS | {"stream": True}).encode()
    with wire.connect(served.port) as connection:
        connection.sendall(wire.post(COMPLETIONS, body, port=served.port))
        connection.recv(64)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    serving_helper.until(lambda: served.busy == 0, "the end of a request whose client is gone")


@pytest.mark.soak
def test_a_client_that_is_too_slow_is_let_go(served: Served) -> None:
    """The server's own patience is 30 seconds."""
    request = wire.post(COMPLETIONS, json.dumps(GOOD).encode(), port=served.port)
    for sent in (request[:10], request[:-1]):  # in the middle of the headers, and of the body
        with wire.connect(served.port) as connection:
            connection.sendall(sent)
            came = wire.to_the_end(connection)  # which ends with patience, or else hangs
        assert not came or only_status(came) == 408
