"""The transcript of a session: messages as plain dicts, checked, and the JSON file that they are kept in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from elm_mlx.arguments import file_to_write, is_unicode, named_path, shown
from elm_mlx.errors import BadCheckpoint, InvalidRequest
from elm_mlx.files import disk_errors, read_bytes, write_whole
from elm_mlx.text.chat.messages import plain_json
from elm_mlx.text.tools import ToolCall

Message = dict[str, Any]

# What a message of each role may hold beside its role.
FIELDS = {
    "system": {"content"},
    "user": {"content"},
    "assistant": {"content", "reasoning", "tool_calls"},
    "tool": {"content", "tool_call_id", "name"},
}
MOST_BYTES = 32 * 2**20  # of a file: some million words
MOST_VALUES = 4_000_000  # in a file, texts' commas and brackets included: more would take gigabytes when they are read
NO_TRANSCRIPT = "is not a transcript"


def check_transcript(messages: object) -> list[Message]:
    """Copies the messages of a transcript: dicts with role and content, in OpenAI's form, null values left out, and the
    arguments of calls as dicts. A system message comes first or not at all; a tool's message answers a call of the
    last assistant's message. Raises InvalidRequest, which names the message, for anything else."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise InvalidRequest(f"The transcript is {shown(messages)}; it must be a list of messages.")
    checked: list[Message] = []
    waiting: set[str] = set()  # ids of calls without a result
    for place, message in enumerate(messages, 1):
        try:
            checked.append(check_message(message))
            waiting = waiting_after(checked[-1], waiting, is_first=place == 1)
        except InvalidRequest as error:
            raise InvalidRequest(f"Message {place} of the transcript {error}") from error
    return checked


def check_message(message: object) -> Message:
    """Copies one message. Raises InvalidRequest with the rest of a sentence that begins with the message."""
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(message, Mapping) or not isinstance(role, str) or not (fields := FIELDS.get(role)):
        raise InvalidRequest(f"must be an object whose role is one of {', '.join(FIELDS)}.")
    given = {key: value for key, value in message.items() if value is not None}
    if strange := [key for key in given if key not in fields | {"role"}]:
        raise InvalidRequest(f"has {shown(strange[0])}, which a message of its role does not have. Leave it out.")
    for name in fields - {"tool_calls"} & given.keys():
        if not isinstance(given[name], str) or not is_unicode(given[name]):
            raise InvalidRequest(f"has {name} {shown(given[name])}; it must be a text in Unicode.")
    calls = [plain_call(call) for call in calls_given(given)]
    if len({call["id"] for call in calls}) < len(calls):
        raise InvalidRequest("has two calls with one id. Give each an id of its own.")
    needed = {"content", "tool_call_id"} & fields - ({"content"} if calls else set())
    if lacking := needed - given.keys():
        raise InvalidRequest(f"has no {min(lacking)}. Add it.")
    return {name: given[name] for name in given if name != "tool_calls"} | ({"tool_calls": calls} if calls else {})


def calls_given(message: Mapping[str, Any]) -> list[Any]:
    """The calls in a message, as they are given."""
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list | tuple):
        raise InvalidRequest(f"has tool_calls {shown(calls)}; they must be a list.")
    return list(calls)


def plain_call(call: object) -> Message:
    """One call in OpenAI's form, its arguments as a dict. Raises InvalidRequest as `check_message`."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise InvalidRequest(f"has the call {shown(call)}; it must be an object with id and function.")
    arguments = function.get("arguments")
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        arguments = None
    texts = call.get("id"), function.get("name")
    if not isinstance(arguments, Mapping) or not all(isinstance(one, str) and is_unicode(one) for one in texts):
        raise InvalidRequest(f"has the call {shown(call)}; it must have an id, a name, and arguments as an object.")
    try:
        plain = plain_json(arguments, checked_text)
    except InvalidRequest as error:
        raise InvalidRequest(
            "has a call whose arguments are not JSON in Unicode, or too deep. Correct them."
        ) from error
    return written_call(ToolCall(*texts, plain))  # type: ignore[arg-type]


def checked_text(text: str) -> str:
    """A text within the arguments of a call, unchanged. Raises InvalidRequest for one that is not Unicode."""
    if not is_unicode(text):
        raise InvalidRequest(f"{shown(text)} is not Unicode.")
    return text


def written_call(call: ToolCall) -> Message:
    """A call as a transcript has it: its arguments are a copy."""
    function = {"name": call.name, "arguments": deepcopy(dict(call.arguments))}
    return {"id": call.id, "type": "function", "function": function}


def result_message(call: ToolCall, text: str) -> Message:
    """The message that the result of a call is."""
    return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": text}


def waiting_after(message: Message, waiting: set[str], *, is_first: bool) -> set[str]:
    """The ids of the calls that wait for a result after a message, of those that waited before it. Raises
    InvalidRequest as `check_message` where the message cannot stand there."""
    role = message["role"]
    if role == "system" and not is_first:
        raise InvalidRequest("is a system message, which can only be the first one. Put it there, or leave it out.")
    if role == "tool":
        if message["tool_call_id"] not in waiting:
            raise InvalidRequest(f"answers the call {shown(message['tool_call_id'])}, and no call with that id waits "
                                 "for a result. Correct the id, or leave the message out.")  # fmt: skip
        return waiting - {message["tool_call_id"]}
    if waiting:
        raise InvalidRequest(f"follows the call {shown(min(waiting))}, which has no result. Put that before it.")
    return {call["id"] for call in message.get("tool_calls", [])}


def pending_calls(messages: Sequence[Message]) -> list[ToolCall]:
    """The calls at the end of a transcript that have no result yet, in their order."""
    answered = []
    for message in reversed(messages):
        if message["role"] != "tool":
            calls = message.get("tool_calls", [])
            return [read_call(call) for call in calls if call["id"] not in answered]
        answered.append(message["tool_call_id"])
    return []


def read_call(call: Message) -> ToolCall:
    """A call out of a transcript: its arguments are a copy."""
    return ToolCall(call["id"], call["function"]["name"], deepcopy(call["function"]["arguments"]))


def read_transcript(path: str | Path) -> list[Message]:
    """Reads the transcript in a file that `save_transcript`, or /save in a chat, wrote. Raises InvalidRequest for what
    is no such file, BadCheckpoint for a larger one, ElmError for one that cannot be read."""
    place = named_path("transcript", path)
    with disk_errors(f"{place} cannot be read", "Name another file."):
        place.stat()  # raises where there is none, with the system's reason
    return parse(place)


def parse(path: Path) -> list[Message]:
    """Reads the transcript in a file that is there. Raises as `read_transcript`."""
    try:
        raw = read_bytes(path, MOST_BYTES)
        if not can_be_read(raw):
            raise ValueError("too many values")
        saved = json.loads(raw.decode())
        system, messages = saved.get("system"), list(saved["messages"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidRequest(f"{path} {NO_TRANSCRIPT}. Name another file.") from error
    told = [] if system is None else [{"role": "system", "content": system}]
    try:
        return check_transcript([*told, *messages])
    except InvalidRequest as error:
        raise InvalidRequest(f"{path} {NO_TRANSCRIPT}: {error} Name another file.") from error


def can_be_read(raw: bytes) -> bool:
    """Whether a file of this content is one that `read_transcript` reads, as far as its size goes."""
    return len(raw) <= MOST_BYTES and sum(map(raw.count, (b",", b"[", b"{"))) <= MOST_VALUES


def save_transcript(path: str | Path, messages: Sequence[Message]) -> None:
    """Writes a transcript, whole or not at all: as JSON, the system message apart. It replaces an earlier transcript
    and an empty file. Raises InvalidRequest where another file has the name, and for a transcript too large to be read
    again, NotFound without the file's directory, DiskFull, ElmError where it cannot be written."""
    place, text = file_to_write("path", path), written(messages)
    if not can_be_read(text.encode()):
        raise InvalidRequest(f"The transcript has {len(text):,} characters as a file, which is more than can be read "
                             "again. Save a part of it.")  # fmt: skip
    with disk_errors(f"{place} cannot be written", "Name another file.", instead="name another file"):
        if place.exists() and not (place.is_file() and place.stat().st_size == 0):
            refuse_other_file(place)
        write_whole(place, text)


def written(messages: Sequence[Message]) -> str:
    """The text of a file with a transcript."""
    is_told = bool(messages) and messages[0]["role"] == "system"
    system = messages[0]["content"] if is_told else None
    return json.dumps({"system": system, "messages": list(messages[is_told:])}, indent=2) + "\n"


def refuse_other_file(path: Path) -> None:
    """Raises InvalidRequest unless a transcript is in a file, which may then be replaced."""
    try:
        parse(path)
    except (InvalidRequest, BadCheckpoint) as error:
        raise InvalidRequest(f"{path} exists, and is not a transcript. Name another file.") from error
