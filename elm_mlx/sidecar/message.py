"""JSON-RPC 2.0 as lines: a line's bytes to a message within bounds, and a message to a line.

Source: https://www.jsonrpc.org/specification. Differences: parameters go by name, a batch array is refused, and an id
is a text or a whole number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from elm_mlx.arguments import is_unicode, shown
from elm_mlx.files import json_kind, readable_size

Id = str | int
MAX_LINE = 8 * 2**20  # bytes; a context of a million tokens is a text of 6 MB
MAX_VALUES = 500_000  # in one line: a prompt of ids has one for each id
MAX_ID = 512  # characters of a text, bits of a number
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603


@dataclass(frozen=True)
class RpcRequest:
    """A message that wants an answer."""

    id: Id
    method: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RpcNotification:
    """A message that wants none."""

    method: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RpcResponse:
    """The answer to a request of ours: a result, or an error object."""

    id: Id
    result: Any = None
    error: dict[str, Any] | None = None


class BadMessage(Exception):
    """A line is no message, for a reason that is told with JSON-RPC's `code`. `id` is the one that the line has, None
    where it has none that could be read."""

    def __init__(self, code: int, message: str, id: Id | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.id = code, message, id


def read_message(line: bytes) -> RpcRequest | RpcNotification | RpcResponse:
    """The message in a line. Raises BadMessage for all else: what is no JSON, is nested too deep, has too many values
    or texts that are not Unicode, and what is no message of JSON-RPC 2.0."""
    value = parse(line)
    if isinstance(value, list):
        raise BadMessage(INVALID_REQUEST, "Batches are not taken: write each message on a line of its own.")
    if not isinstance(value, dict):
        raise BadMessage(INVALID_REQUEST, f"The line holds {json_kind(value)}, where an object belongs.")
    id = value.get("id")
    known = id if is_id(id) else None
    if value.get("jsonrpc") != "2.0":
        raise BadMessage(INVALID_REQUEST, 'The message has no "jsonrpc": "2.0".', known)
    if "id" in value and known is None:
        raise BadMessage(INVALID_REQUEST, f"The id is {shown(id)}; it must be a text of up to {MAX_ID} characters, or "
                         "a whole number.")  # fmt: skip
    if "method" not in value:
        return response_in(value, known)
    method, params = value["method"], value.get("params", {})
    if not isinstance(method, str):
        raise BadMessage(INVALID_REQUEST, f"The method is {shown(method)}; it must be a text.", known)
    if not isinstance(params, dict):
        raise BadMessage(INVALID_PARAMS, f"params is {json_kind(params)}; it must be an object, with the parameters by "
                         "their names.", known)  # fmt: skip
    return RpcNotification(method, params) if known is None else RpcRequest(known, method, params)


def parse(line: bytes) -> Any:
    """The JSON value in a line. Raises BadMessage."""
    if len(line) > MAX_LINE:
        raise too_long()
    if sum(map(line.count, (b",", b"[", b"{"))) > MAX_VALUES:  # before a value stands one of these
        raise BadMessage(PARSE_ERROR, f"The line holds over {MAX_VALUES:,} values or commas.")
    try:
        text = line.decode()
        value = json.loads(text, parse_constant=refuse_constant)
        if "\\u" in text and not is_unicode(json.dumps(value, ensure_ascii=False)):
            raise BadMessage(
                PARSE_ERROR, "The line holds half a surrogate pair (\\ud800 to \\udfff), which is no text."
            )
    except UnicodeDecodeError as error:
        raise BadMessage(PARSE_ERROR, f"The line is not UTF-8: byte {error.start + 1} is none.") from error
    except json.JSONDecodeError as error:
        raise BadMessage(PARSE_ERROR, f"The line is no JSON: {error.msg} at character {error.pos + 1}.") from error
    except ValueError as error:
        raise BadMessage(PARSE_ERROR, "The line holds a number of thousands of digits.") from error
    except RecursionError as error:
        raise BadMessage(PARSE_ERROR, "The line holds lists or objects too deep within one another.") from error
    return value


def too_long() -> BadMessage:
    """Makes the error for a line that is longer than is read."""
    return BadMessage(PARSE_ERROR, f"The line has over {readable_size(MAX_LINE)}, more than any model reads.")


def refuse_constant(name: str) -> None:
    """Raises BadMessage for NaN and Infinity, which Python reads and JSON does not have."""
    raise BadMessage(PARSE_ERROR, f"The line is no JSON: {name} is not a number there.")


def is_id(id: object) -> bool:
    """Whether a value may be the id of a request."""
    if isinstance(id, str):
        return len(id) <= MAX_ID
    return isinstance(id, int) and not isinstance(id, bool) and id.bit_length() <= MAX_ID


def response_in(value: Mapping[str, Any], id: Id | None) -> RpcResponse:
    """The response that an object is. Raises BadMessage where it is none."""
    error = value.get("error")
    if id is None or ("result" in value) == (error is not None):
        raise BadMessage(INVALID_REQUEST, "The message has no method, and is no response with an id and one of result "
                         "and error either.", id)  # fmt: skip
    if error is not None and not isinstance(error, dict):
        raise BadMessage(INVALID_REQUEST, f"The error is {json_kind(error)}; it must be an object.", id)
    return RpcResponse(id, value.get("result"), error)


def request_line(id: Id, method: str, params: Mapping[str, Any]) -> bytes:
    """The line of a request."""
    return line_of({"id": id, "method": method, "params": params})


def notification_line(method: str, params: Mapping[str, Any]) -> bytes:
    """The line of a notification."""
    return line_of({"method": method, "params": params})


def result_line(id: Id, result: Any) -> bytes:
    """The line that answers a request."""
    return line_of({"id": id, "result": result})


def error_line(id: Id | None, error: Mapping[str, Any]) -> bytes:
    """The line that refuses a request; without an id, one that could not be read."""
    return line_of({"id": id, "error": error})


def line_of(fields: Mapping[str, Any]) -> bytes:
    """A message as one line of UTF-8. Numbers that JSON does not have (an infinite log-probability) become null, and
    halves of surrogate pairs are replaced."""
    message = {"jsonrpc": "2.0", **fields}
    try:
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(finite(message), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def finite(value: Any) -> Any:
    """A JSON value whose numbers are all finite; others are None."""
    if isinstance(value, Mapping):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
