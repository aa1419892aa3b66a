"""Arguments against the schema of a tool: coerced where that is certain, and judged as the draft's own suite does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from elm_mlx.text.tools.coercion import coerced
from elm_mlx.text.tools.schema_check import SchemaCheck, Unusable

SUITE = Path(__file__).parents[3] / "shared/data/json-schema-tests/tests/draft2020-12"
INTEGER, TEXT = {"type": "integer"}, {"type": "string"}


def nested(schema: Any, depth: int) -> Any:
    """A schema within so many others."""
    for _ in range(depth):
        schema = {"anyOf": [schema]}
    return schema


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        ("2", INTEGER, 2),
        (" -7 ", INTEGER, -7),
        ("2.5", INTEGER, "2.5"),
        ("007", INTEGER, "007"),
        ("2", TEXT, "2"),
        ("2", {}, "2"),
        ("2", {"type": ["integer", "string"]}, "2"),
        ("2", {"anyOf": [INTEGER, {"type": "null"}]}, 2),
        ("null", {"anyOf": [INTEGER, {"type": "null"}]}, None),
        ("2", {"anyOf": [INTEGER, {}]}, "2"),
        ("2.5", {"type": "number"}, 2.5),
        ("1e999", {"type": "number"}, "1e999"),
        ("9" * 5000, INTEGER, "9" * 5000),
        ("true", {"type": "boolean"}, True),
        ("False", {"type": "boolean"}, False),
        ("yes", {"type": "boolean"}, "yes"),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ('{"a": 1}', {"type": "object"}, {"a": 1}),
        ("[1", {"type": "array"}, "[1"),
        ("[" * 500 + "]" * 500, {"type": "array"}, "[" * 500 + "]" * 500),
        ({"a": ["1"]}, {"properties": {"a": {"items": INTEGER}}}, {"a": [1]}),
        ({"a": "1"}, {"properties": []}, {"a": "1"}),
        ({"a": "1"}, {"additionalProperties": INTEGER}, {"a": 1}),
        ({"a": "1"}, {"additionalProperties": False}, {"a": "1"}),
        ("2", {"type": 5}, "2"),
        ("2", nested({"type": "integer"}, 3000), "2"),
        (2, TEXT, 2),
    ],
)
def test_texts_become_what_the_schema_asks_for_where_that_is_certain(value: Any, schema: Any, expected: Any) -> None:
    found = coerced(value, schema)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("schema", "value", "why"),
    [
        ({"required": ["city"]}, {}, "arguments lacks city."),
        ({"properties": {"days": INTEGER}}, {"days": "two"}, "arguments.days is 'two'; it must be of type integer."),
        ({"properties": {"d": {"items": INTEGER}}}, {"d": [1, None]}, "arguments.d[1] is None"),
        ({"properties": {"u": {"enum": ["C", "F"]}}}, {"u": "K"}, "one of 'C', 'F'"),
        ({"additionalProperties": False}, {"x": 1}, "arguments has x"),
        ({"properties": {"n": {"maximum": 3}}}, {"n": 4}, "arguments.n is 4; it must be at most 3."),
        ({"properties": {"n": 5}}, {"n": 4}, None),
        ({"properties": 5}, {"n": 4}, "cannot be checked"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#"}}}, {"n": 4}, "nested too deeply"),
        ({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, {"n": 4}, "takes too long"),
        ({"properties": {"n": {"multipleOf": 7}}}, {"n": 7 * 10**399}, None),
        ({"properties": {"n": {"multipleOf": 7}}}, {"n": 10**399}, "a multiple of 7"),
    ],
)
def test_a_misfit_is_said_with_its_place(schema: Any, value: Any, why: str | None) -> None:
    said = SchemaCheck(schema)(value, "arguments")
    assert said == why or (why is not None and said is not None and why in said)


@pytest.mark.parametrize(
    "schema",
    [
        {"unevaluatedProperties": False},
        {"properties": {"a": {"$ref": "https://example.org/schema"}}},
        {"properties": {"a": {"$ref": "#/$defs/missing"}}},
        {"properties": {"a": {"pattern": "("}}},
    ],
)
def test_what_would_not_be_checked_is_refused(schema: Any) -> None:
    with pytest.raises(Unusable):
        SchemaCheck(schema)
    assert SchemaCheck({"properties": {"unevaluatedItems": {}, "$ref": {}, "pattern": {}}})({}, "x") is None


def test_the_suite_of_the_draft_agrees() -> None:
    if not SUITE.is_dir():
        pytest.skip("the JSON Schema Test Suite is not beside this checkout")
    agreed, refused, other = 0, 0, []
    for file in sorted(SUITE.glob("*.json")):
        for group in json.loads(file.read_text(encoding="utf-8")):
            try:
                check = SchemaCheck(group["schema"])
            except Unusable:
                refused += 1
                continue
            for test in group["tests"]:
                if (check(test["data"], "it") is None) == test["valid"]:
                    agreed += 1
                else:
                    other.append((file.name, group["description"], test["description"]))
    assert (agreed > 900, refused < 150) == (True, True)
    assert {name for name, *_ in other} <= {"vocabulary.json"}
