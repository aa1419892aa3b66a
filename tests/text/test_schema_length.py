"""The fewest bytes of a schema's values: never more than a value has that fits."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from helpers.forms import compact
from helpers.schema_suite import NEEDED, cases

from elm_mlx.errors import NotEnforceable
from elm_mlx.text.schema import check_schema
from elm_mlx.text.schema_length import fewest_bytes


@pytest.mark.parametrize(
    ("schema", "shortest"),
    [
        ({}, 1),
        ({"type": "boolean"}, "true"),
        ({"type": "string", "minLength": 5}, '"aaaaa"'),
        ({"enum": ["long", 12, None]}, "12"),
        ({"type": "array", "minItems": 3, "items": {"type": "null"}}, "[null,null,null]"),
        ({"type": "array", "minItems": 2, "prefixItems": [{"const": "é"}], "items": {"type": "object"}}, '["é",{}]'),
        ({"type": "object", "required": ["a", "b"], "properties": {"a": {"const": True}}}, '{"a":true,"b":1}'),
        ({"anyOf": [{"const": "abc"}, {"type": "null"}]}, "null"),
        ({"allOf": [{"minLength": 3, "type": "string"}, {"type": "string"}]}, '"aaa"'),
        ({"const": {"a": [1.0, "b"]}}, '{"a":[1,"b"]}'),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "boolean"}}}, "true"),
        ({"type": "object", "required": ["n"], "properties": {"n": False}}, math.inf),
    ],
)
def test_the_shortest_answer_is_known(schema: Any, shortest: str | float) -> None:
    wanted = len(shortest.encode()) if isinstance(shortest, str) else shortest
    assert fewest_bytes(check_schema(schema)) == wanted


def test_schemas_that_refer_to_each_other_without_end_take_no_time() -> None:
    many = {str(i): {"anyOf": [{"$ref": f"#/$defs/{j}"} for j in range(20)]} for i in range(20)}
    assert fewest_bytes(json.dumps({"$ref": "#/$defs/0", "$defs": many})) == 1


@NEEDED
def test_no_valid_value_of_the_suite_is_shorter() -> None:
    for case in cases():
        try:
            least = fewest_bytes(check_schema(case.schema))
        except NotEnforceable:
            continue
        for value, valid in case.values:
            assert not valid or isinstance(value, float) or len(compact(value).encode()) >= least, (case, value)
