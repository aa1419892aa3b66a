"""Transcripts: what a session says comes back from its file as it was, and anything else is refused with a sentence."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.api import transcript
from elm_mlx.api.transcript import check_transcript, pending_calls, read_transcript, save_transcript
from elm_mlx.errors import BadCheckpoint, ElmError, InvalidRequest

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
USER = {"role": "user", "content": "Hi"}


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A question, an answer, and perhaps calls, all of which have results but perhaps those of the last turn."""
    said: dict[str, Any] = {"role": "assistant", "content": draw(TEXTS)}
    if draw(st.booleans()):
        said["reasoning"] = draw(TEXTS)
    names = draw(st.lists(TEXTS, max_size=3))
    arguments = st.dictionaries(TEXTS, VALUES, max_size=3)
    calls = [
        {"id": f"call-{number}", "type": "function", "function": {"name": name, "arguments": draw(arguments)}}
        for number, name in enumerate(names)
    ]
    told = [{"role": "tool", "tool_call_id": one["id"], "content": draw(TEXTS)} for one in calls]
    return [{"role": "user", "content": draw(TEXTS)}, {**said, **({"tool_calls": calls} if calls else {})}, *told]


@st.composite
def transcripts(draw: st.DrawFn) -> list[dict[str, Any]]:
    told = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    return [*told, *(message for turn in draw(st.lists(turns(), max_size=4)) for message in turn)]


@pytest.mark.parametrize("count", [20, pytest.param(150, marks=pytest.mark.slow)])
def test_a_transcript_comes_back_from_its_file_as_it_was(count: int) -> None:
    @settings(max_examples=count)
    @given(transcripts())
    def check(messages: list[dict[str, Any]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "talk.json"
            for _ in range(2):  # the second one replaces the first
                save_transcript(place, check_transcript(messages))
                assert read_transcript(place) == messages

    check()


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_what_was_changed_by_chance_is_a_transcript_or_a_sentence(count: int) -> None:
    @settings(max_examples=count)
    @given(transcripts().filter(bool), st.data())
    def check(messages: list[dict[str, Any]], data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(messages) - 1))
        key = data.draw(st.sampled_from([*messages[place], "tool_calls", "tool_call_id", "more"]))
        messages[place] = {**messages[place], key: data.draw(VALUES)}
        checked: list[dict[str, Any]] = []
        with suppress(InvalidRequest):
            checked = check_transcript(messages)
        assert check_transcript(checked) == checked

    check()


def calls(*ids: str) -> dict[str, Any]:
    found = [{"id": one, "function": {"name": "look", "arguments": "{}"}} for one in ids]
    return {"role": "assistant", "content": None, "tool_calls": found}


def calling(arguments: object) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "look", "arguments": arguments}}]}


def told(id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": "x"}


@pytest.mark.parametrize(
    "messages, why",
    [
        (3, "must be a list"),
        ("Hi", "must be a list"),
        ([3], "Message 1 of the transcript must be an object whose role"),
        ([{"role": "robot", "content": "Hi"}], "role is one of system, user"),
        ([USER, {"role": "user"}], "Message 2 of the transcript has no content"),
        ([{"role": "user", "content": 3}], "must be a text"),
        ([{"role": "user", "content": "\ud800"}], "must be a text in Unicode"),
        ([USER | {"audio": "x"}], "has 'audio'"),
        ([USER | {"": "x"}], "has ''"),
        ([USER | {0: object()}], "has 0"),
        ([USER, {"role": "system", "content": "Hi"}], "can only be the first one"),
        ([USER, told("1")], "no call with that id waits"),
        ([calls("1"), USER], "has no result"),
        ([calls("1", "1")], "two calls with one id"),
        ([calls("1"), told("1"), told("1")], "no call with that id waits"),
        ([{"role": "tool", "content": "x"}], "has no tool_call_id"),
        ([USER | {"role": "assistant", "tool_calls": 3}], "must be a list"),
        ([USER | {"role": "assistant", "tool_calls": [{"id": "1"}]}], "with id and function"),
        ([calling({"a": b""})], "has a call whose arguments are not JSON"),
        ([calling("[")], "arguments as an object"),
    ],
)  # fmt: skip
def test_what_is_no_transcript_is_refused_with_a_sentence(messages: object, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        check_transcript(messages)


def test_calls_without_a_result_wait() -> None:
    messages = check_transcript([USER, calls("1", "2", "3"), told("2")])
    assert [call.id for call in pending_calls(messages)] == ["1", "3"]
    assert pending_calls([]) == pending_calls(messages[:1]) == []


@pytest.mark.parametrize(
    "content",
    [
        b"", b"no json", b"\xff\xfe", b"[" * 100_000, b"[]", b"3", b'{"messages": 3}',
        b'{"messages": [{"role": "user"}]}',
        b'{"system": 3, "messages": []}', b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": ' + b"[" * 900 + b"]" * 900 + b"}]}",
        b'{"messages": [{"role": "user", "content": NaN}]}', b'{"messages": [' + b"[]," * 4_100_000 + b"[]]}",
        b'{"messages": [{"role": "user", "content": ' + b"9" * 10_000 + b"}]}",
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_file_is_refused_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "talk.json"
    place.write_bytes(content)
    with pytest.raises(InvalidRequest, match="is not a transcript"):
        read_transcript(place)
    if content:
        with pytest.raises(InvalidRequest, match="exists, and is not a transcript"):
            save_transcript(place, [])
        assert place.read_bytes() == content


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, pipe: Path) -> None:
    with pytest.raises(ElmError, match="No such file"):
        read_transcript(tmp_path / "nowhere")
    with pytest.raises(BadCheckpoint, match="a folder, a pipe or a device"):
        read_transcript(pipe)
    (tmp_path / "large").write_bytes(b" " * (2**25 + 1))
    with pytest.raises(BadCheckpoint, match="over 32 MB"):
        read_transcript(tmp_path / "large")


def test_a_file_that_a_chat_has_written_is_a_transcript(tmp_path: Path) -> None:
    saved = {"system": None, "messages": [USER, {"role": "assistant", "content": "Ho"}]}
    (tmp_path / "chat.json").write_text(json.dumps(saved), encoding="utf-8")
    assert read_transcript(tmp_path / "chat.json") == saved["messages"]


def test_a_transcript_that_could_not_be_read_again_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "talk.json"
    save_transcript(place, [USER])
    before = place.read_bytes()
    monkeypatch.setattr(transcript, "MOST_BYTES", len(before) + 10)
    with pytest.raises(InvalidRequest, match="more than can be read again"):
        save_transcript(place, [USER, USER])
    assert place.read_bytes() == before
