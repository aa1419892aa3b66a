"""Lines of JSON from anybody: an object within bounds, or a sentence; nothing else, and nothing slow."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elm_mlx.errors import InvalidRequest
from elm_mlx.jobs import json_line
from elm_mlx.jobs.entry import read_entry
from elm_mlx.jobs.json_line import MAX_LINE, parse_line, read_line
from elm_mlx.protocols.json_object import MAX_VALUES

BOMBS = {
    "lists in lists": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects in objects": b'{"a": ' * 50_000 + b"1" + b"}" * 50_000,
    "very many values": b'{"prompt": [' + b"1," * MAX_VALUES + b"1]}",
    "very many keys, the last one twice": b"{%s}" % b",".join(b'"%d":1' % n for n in [*range(200_000), 199_999]),
    "a long number": b'{"seed": ' + b"9" * 100_000 + b"}",
}


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"nonsense", "is not valid JSON: Expecting value at character 1"),
        (b'{"prompt": "x"', "is not valid JSON"),
        (b'{"prompt": "x"} {}', "is not valid JSON: Extra data"),
        (b'{"prompt": "a\x00b"}', "is not valid JSON: Invalid control character"),
        (b"\x00\x00\x00", "is not valid JSON"),
        (b'{"prompt": "caf\xe9"}', "is not UTF-8 text: byte 16"),
        (b'{"prompt": "\\ud800"}', "half a surrogate pair"),
        (b'{"\\udfff": 1}', "half a surrogate pair"),
        (b'{"temperature": NaN}', "NaN is not a number"),
        (b'{"temperature": -Infinity}', "-Infinity is not a number"),
        (b'{"seed": 1, "seed": 2}', "names 'seed' twice"),
        (b'{"body": {"n": 1, "n": 1}}', "names 'n' twice"),
        (b"[]", "holds a list, where an object belongs"),
        (b"7", "holds a number"),
        (b"null", "holds null"),
        (None, "has over 17 MB"),
    ],
)
def test_what_is_no_object_is_refused_in_a_sentence(raw: bytes | None, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^Line 3 .*{complaint}.*\\.$"):
        parse_line(raw, "Line 3")


@pytest.mark.parametrize("kind", BOMBS)
def test_a_line_that_is_made_to_cost_much_is_refused_in_a_sentence(kind: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Line 3 (holds|names) ") as refused:
        parse_line(BOMBS[kind], "Line 3")
    assert len(str(refused.value)) < 200


def test_no_depth_gets_between_what_can_be_parsed_and_what_can_be_looked_at() -> None:
    deep = b'{"custom_id": "a", "body": {"prompt": "x", "tools": %s}}'
    said = set()
    for depth in [*range(850, 1050), *range(1050, 60_000, 997)]:
        try:
            read_entry(1, deep % (b"[" * depth + b"]" * depth)).read_ask()
        except InvalidRequest as error:
            said.add(str(error).split()[0])
    assert said == {"body.tools", "Line"}


@given(st.binary() | st.from_regex(rb'\{"(id|prompt|body)": [][{}",:0-9eE.\\u-]*\}', fullmatch=True))
def test_any_bytes_are_a_line_with_an_id_or_with_an_error(raw: bytes) -> None:
    entry = read_entry(4, raw)
    assert entry.error is None or (entry.id, entry.fields) == (4, {})
    json.dumps(entry.id)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.floats(allow_nan=False) | st.text("ab")))
def test_what_json_writes_is_read(fields: dict[str, object]) -> None:
    infinite = any(value in (float("inf"), float("-inf")) for value in fields.values())
    if not infinite:
        assert parse_line(json.dumps(fields).encode(), "It") == fields


def test_a_line_that_is_too_long_is_read_past_and_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_line, "MAX_LINE", 10)
    file = io.BytesIO(b"123456789\n" + b"1234567890\n" + b"x" * 95 + b"\nshort\nend")
    assert [read_line(file) for _ in range(6)] == [b"123456789\n", None, None, b"short\n", b"end", b""]
    assert MAX_LINE > 2**20


@pytest.mark.parametrize("bad", ["true", "1.5", '""', "{}", "[]", f'"{"x" * 513}"', "9" * 513], ids=str)
def test_an_id_is_a_text_or_a_whole_number(bad: str) -> None:
    entry = read_entry(7, f'{{"id": {bad}, "prompt": "x"}}'.encode())
    assert entry.id == 7  # the line's number, as for a line without an id
    assert str(entry.error).startswith("The id of line 7 is ")
    assert len(str(entry.error)) < 200


@pytest.mark.parametrize("bad", ["null", "1", '""', "true"])
def test_a_custom_id_is_a_text(bad: str) -> None:
    entry = read_entry(7, f'{{"custom_id": {bad}, "body": {{}}}}'.encode())
    assert (entry.id, entry.form.__name__) == (7, "elm_mlx.jobs.plain")
    assert str(entry.error).startswith("The custom_id of line 7 is ")


def test_one_and_the_text_one_are_two_ids() -> None:
    assert read_entry(5, b'{"id": 1}').key != read_entry(5, b'{"id": "1"}').key
    assert read_entry(5, b'{"prompt": "x"}').key == read_entry(9, b'{"id": 5}').key
    assert read_entry(5, b'{"id": null}').id == 5
