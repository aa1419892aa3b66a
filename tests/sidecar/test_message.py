"""Lines are messages of JSON-RPC 2.0, or are refused with its codes and a sentence; whatever their bytes are."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.errors import Cancelled, InvalidRequest, NotEnoughMemory, PromptTooLong
from elm_mlx.sidecar.failure import failure_of
from elm_mlx.sidecar.lines import Lines
from elm_mlx.sidecar.message import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_LINE,
    PARSE_ERROR,
    BadMessage,
    RpcNotification,
    RpcRequest,
    RpcResponse,
    error_line,
    line_of,
    read_message,
    request_line,
    result_line,
)


def test_what_is_written_is_read_again() -> None:
    assert read_message(request_line("a", "generate", {"prompt": "é\n\u2028"})) == RpcRequest(
        "a", "generate", {"prompt": "é\n\u2028"}
    )
    assert read_message(b'{"jsonrpc":"2.0","method":"$/cancel"}') == RpcNotification("$/cancel")
    assert read_message(result_line(7, None)) == RpcResponse(7)
    assert read_message(error_line(7, {"code": 1, "message": "no"})) == RpcResponse(
        7, None, {"code": 1, "message": "no"}
    )


def test_a_message_is_one_line_of_json_whatever_stands_in_it() -> None:
    line = line_of({"result": {"text": "a\nb\r\u2028", "logprob": -float("inf"), "half": "\ud800"}})
    assert line.count(b"\n") == 1
    assert json.loads(line)["result"] == {"text": "a\nb\r\u2028", "logprob": None, "half": "?"}


@pytest.mark.parametrize(
    ("line", "code", "id", "said"),
    [
        (b"{", PARSE_ERROR, None, "no JSON"),
        (b"\xff", PARSE_ERROR, None, "not UTF-8"),
        (b"[" * 100_000, PARSE_ERROR, None, "too deep"),
        (b"[" + b"1," * 500_001 + b"1]", PARSE_ERROR, None, "values"),
        (b" " * (MAX_LINE + 1), PARSE_ERROR, None, "over 8.4 MB"),
        (b"9" * 5000, PARSE_ERROR, None, "thousands of digits"),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":NaN}}', PARSE_ERROR, None, "NaN"),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\\ud800"}}', PARSE_ERROR, None, "surrogate"),
        (b'[{"jsonrpc":"2.0","id":1,"method":"m"}]', INVALID_REQUEST, None, "Batches"),
        (b"1", INVALID_REQUEST, None, "where an object belongs"),
        (b'{"id":1,"method":"m"}', INVALID_REQUEST, 1, '"jsonrpc": "2.0"'),
        (b'{"jsonrpc":"2.0","id":null,"method":"m"}', INVALID_REQUEST, None, "id is None"),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"m"}', INVALID_REQUEST, None, "id is 1.5"),
        (b'{"jsonrpc":"2.0","id":true,"method":"m"}', INVALID_REQUEST, None, "id is True"),
        (b'{"jsonrpc":"2.0","id":"a","method":1}', INVALID_REQUEST, "a", "method is 1"),
        (b'{"jsonrpc":"2.0","id":"a","method":"m","params":[1]}', INVALID_PARAMS, "a", "by their names"),
        (b'{"jsonrpc":"2.0","id":2}', INVALID_REQUEST, 2, "no method"),
        (b'{"jsonrpc":"2.0","id":2,"result":1,"error":{}}', INVALID_REQUEST, 2, "no method"),
    ],
    ids=range(18),
)
def test_what_is_no_message_is_refused(line: bytes, code: int, id: object, said: str) -> None:
    with pytest.raises(BadMessage) as raised:
        read_message(line)
    assert (raised.value.code, raised.value.id) == (code, id)
    assert said in raised.value.message


@settings(max_examples=50)
@given(
    st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_bytes_raise_anything_else(line: bytes) -> None:
    with pytest.raises(BadMessage):
        read_message(line)


@settings(max_examples=50)
@given(st.binary(), st.lists(st.integers(0, 40)))
def test_lines_do_not_depend_on_where_their_chunks_are_cut(raw: bytes, cuts: list[int]) -> None:
    raw = raw.replace(b"\x00", b"\n")
    places = sorted({0, len(raw), *(cut for cut in cuts if cut <= len(raw))})
    lines, whole = Lines(longest=5), Lines(longest=5)
    got = [line for a, b in pairwise(places) for line in lines.feed(raw[a:b])]
    assert got == whole.feed(raw)
    expected = [line if len(line) <= 5 else None for line in raw.split(b"\n")[:-1]]
    assert got == [line for line in expected if line is None or line.strip()]


def test_errors_have_codes_and_what_programs_need() -> None:
    wrong = failure_of(InvalidRequest("Wrong.", "Leave {max_tokens} out."))
    assert wrong == {
        "code": INVALID_PARAMS,
        "message": "Wrong. Leave max_tokens out.",
        "data": {"kind": "InvalidRequest", "exit_code": 2, "advice": "Leave max_tokens out."},
    }
    assert failure_of(Cancelled("Over."))["code"] == -32082
    assert failure_of(PromptTooLong("Long.", "", 9, 8))["data"]["context"] == 8
    assert failure_of(NotEnoughMemory("Much.", "", 9, 8))["data"]["available"] == 8
    assert failure_of(KeyError("secret")) == {
        "code": -32603,
        "message": "An error inside elm-mlx (KeyError); standard error has more.",
    }
