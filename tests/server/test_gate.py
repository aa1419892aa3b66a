"""Who may ask: the names of this machine, pages of its own, holders of the key. Through real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.live_server import live_app
from helpers.raw_http import ask, connected, read_answer, read_to_end, request

from elm_mlx.errors import InvalidRequest
from elm_mlx.server.app import make_app
from elm_mlx.server.gate import host_name
from elm_mlx.server.settings import Settings

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """Servers without models, by how they are set up."""
    variants = {
        "usual": Settings(),
        "key": Settings(api_key="sesame"),
        "origin": Settings(allowed_origins=("http://localhost:3000", "app://obsidian.md"), api_key="sesame"),
        "any": Settings(allowed_origins=("*",)),
        "host": Settings(allowed_hosts=("mac.example", "other.example:8080")),
        "open": Settings(host="0.0.0.0", api_key="sesame"),
    }
    with ExitStack() as stack:
        house: Any = SimpleNamespace(shelf=SimpleNamespace(books={}))
        yield {name: stack.enter_context(live_app(make_app(one, house))) for name, one in variants.items()}


# Host


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "127.8.9.1", "[::1]:8080", "localhost."]
)
def test_this_machine_answers_under_its_own_names(ports: dict[str, int], name: str) -> None:
    assert ask(ports["usual"], "GET", "/health", host=name).status == 200


def test_this_machine_answers_under_its_own_host_name(ports: dict[str, int]) -> None:
    assert ask(ports["usual"], "GET", "/health", host=socket.gethostname()).status == 200


@pytest.mark.parametrize(
    "name",
    ["evil.example", "localhost.evil.example", "evil.example:8080", "192.168.1.5", "", "localhost:x", "[::1]x", "::2",
     "127.0.0.1.evil.example", "user@localhost"],
)  # fmt: skip
def test_no_other_name_is_answered(ports: dict[str, int], name: str) -> None:
    for path in ("/health", "/", CHAT, "/nowhere"):
        answer = ask(ports["usual"], "GET", path, host=name)
        assert (answer.status, answer.error["code"]) == (403, "host_not_allowed")


def test_a_request_without_a_name_is_refused(ports: dict[str, int]) -> None:
    with connected(ports["usual"]) as one:
        one.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert read_answer(one).status == 403


def test_a_name_can_be_allowed(ports: dict[str, int]) -> None:
    assert ask(ports["host"], "GET", "/health", host="mac.example:99").status == 200
    assert ask(ports["host"], "GET", "/health", host="other.example").status == 200
    assert ask(ports["host"], "GET", "/health", host="evil.example").status == 403


def test_an_open_server_answers_under_addresses_but_not_under_foreign_names(ports: dict[str, int]) -> None:
    assert ask(ports["open"], "GET", "/health", host="192.168.1.5:8080").status == 200
    assert ask(ports["open"], "GET", "/health", host="evil.example").status == 403


@pytest.mark.parametrize(
    ("told", "name"), [("A:1", "a"), ("a", "a"), ("[::1]:8", "::1"), ("a:b", ""), ("::1", "::1"), ("[::1", "")]
)
def test_a_host_header_is_a_name_and_perhaps_a_port(told: str, name: str) -> None:
    assert host_name(told) == name


# Origin


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "http://localhost:8081", "file://"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_pages_of_others_may_not_ask(ports: dict[str, int], origin: str, method: str) -> None:
    answer = ask(ports["usual"], method, CHAT, host="localhost:8080", origin=origin)
    assert (answer.status, answer.error["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


def test_a_post_that_needs_no_preflight_is_refused_too(ports: dict[str, int]) -> None:
    answer = ask(ports["usual"], "POST", CHAT, b"{}", content_type="text/plain", origin="http://evil.example")
    assert answer.status == 403


def test_the_servers_own_page_may_ask(ports: dict[str, int]) -> None:
    assert ask(ports["usual"], "GET", "/health", host="localhost:8080", origin="http://localhost:8080").status == 200


def test_an_allowed_page_may_ask_and_read(ports: dict[str, int]) -> None:
    for origin in ("http://localhost:3000", "app://obsidian.md"):
        answer = ask(ports["origin"], "GET", "/health", origin=origin)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
        assert "access-control-allow-credentials" not in answer.headers
    assert ask(ports["origin"], "GET", "/health", origin="http://localhost:3001").status == 403
    assert ask(ports["any"], "GET", "/health", origin="null").headers["access-control-allow-origin"] == "null"


def test_errors_can_be_read_by_an_allowed_page(ports: dict[str, int]) -> None:
    for key, status in (("wrong", 401), ("sesame", 404)):
        answer = ask(ports["origin"], "GET", "/nowhere", origin="http://localhost:3000", x_api_key=key)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "http://localhost:3000")


def test_a_preflight_allows_what_clients_for_browsers_send(ports: dict[str, int]) -> None:
    asked = "authorization,content-type,x-stainless-os,x-stainless-retry-count,openai-beta,anthropic-version,x-evil"
    answer = ask(ports["origin"], "OPTIONS", CHAT, origin="http://localhost:3000",
                 access_control_request_method="POST", access_control_request_headers=asked)  # fmt: skip
    assert (answer.status, answer.body) == (204, b"")
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert allowed == asked.split(",")[:-1]
    assert "POST" in answer.headers["access-control-allow-methods"]


# Key


@pytest.mark.parametrize(
    "given", [{"authorization": "Bearer sesame"}, {"authorization": "bearer  sesame"}, {"x_api_key": "sesame"}]
)
def test_the_key_comes_as_a_bearer_token_or_as_x_api_key(ports: dict[str, int], given: dict[str, str]) -> None:
    assert ask(ports["key"], "GET", "/nowhere", **given).status == 404


@pytest.mark.parametrize(
    "given",
    [{}, {"authorization": "Bearer"}, {"authorization": "Bearer open"}, {"authorization": "sesame"},
     {"x_api_key": "sesam"}, {"authorization": "Basic c2VzYW1l"}, {"x_api_key": "sésame"}],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/nowhere", "/metrics", "/health/"])
def test_nothing_is_answered_without_the_key(ports: dict[str, int], given: dict[str, str], path: str) -> None:
    answer = ask(ports["key"], "GET", path, **given)
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert b"sesame" not in answer.body


def test_health_needs_no_key_and_any_key_passes_where_there_is_none(ports: dict[str, int]) -> None:
    assert ask(ports["key"], "GET", "/health").status == 200
    assert ask(ports["usual"], "GET", "/health", authorization="Bearer anything").status == 200


def test_the_page_can_be_seen_without_the_key_as_it_asks_for_one(ports: dict[str, int]) -> None:
    page = ask(ports["key"], "GET", "/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert ask(ports["key"], "GET", "/page/main.js").status == 200
    assert ask(ports["key"], "GET", "/page/nothing.js").status == 401


def test_an_address_beyond_this_machine_demands_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "mac.example"):
        with pytest.raises(InvalidRequest, match=r"needs a key.*api_key_file"):
            Settings(host=host).check()
        Settings(host=host, api_key="k").check()
    for host in (None, "localhost", "127.0.0.1", "127.0.0.2", "::1"):
        Settings(host=host).check()


def test_the_key_is_not_shown_with_the_settings() -> None:
    assert "sesame" not in repr(Settings(api_key="sesame"))


# Routes


@pytest.mark.parametrize(
    "path", ["/v1/chat/completion", "/v1", "/v1/chat/completions/", "//health", "/../etc/passwd", "/%00", "/v1/models%"]
)
def test_an_unknown_route_is_a_404(ports: dict[str, int], path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = ask(ports["usual"], method, path)
        assert (answer.status, answer.error["code"]) in ((404, "not_found"), (405, "method_not_allowed"))
        assert answer.status == 404 or path == "/v1/models%"


def test_a_wrong_method_is_a_405_that_names_the_right_ones(ports: dict[str, int]) -> None:
    answer = ask(ports["usual"], "POST", "/health", b"{}")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.error["code"] == "method_not_allowed"


def test_anthropics_routes_have_errors_in_their_own_form(ports: dict[str, int]) -> None:
    told = json.loads(ask(ports["key"], "GET", "/v1/messages").body)
    assert (told["type"], told["error"]["type"]) == ("error", "authentication_error")
    assert (
        json.loads(ask(ports["key"], "GET", "/v1/messages/x", x_api_key="sesame").body)["error"]["type"]
        == "not_found_error"
    )


def test_head_has_the_headers_alone(ports: dict[str, int]) -> None:
    with connected(ports["usual"]) as one:
        one.sendall(request("HEAD", "/health") + request("GET", "/health", connection="close"))
        raw = read_to_end(one)
    assert raw.index(b"HTTP/1.1 200", 1) == raw.index(b"\r\n\r\n") + 4


def test_every_response_has_a_name_of_its_own(ports: dict[str, int]) -> None:
    answers = [ask(ports["key"], "GET", path) for path in ("/health", "/nowhere", CHAT)]
    names = {answer.headers["x-request-id"] for answer in answers}
    assert len(names) == 3
    assert all(name.startswith("req_") for name in names)
    assert all("date" in answer.headers and "server" not in answer.headers for answer in answers)
