"""Schemas: what is enforced, what is refused by its name, and random ones."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from helpers.forms import STOPS, begin, compact, demo_tokenizer, draw, schema_form, takes
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.errors import NotEnforceable
from elm_mlx.text.grammar import Grammars
from elm_mlx.text.schema import check_schema

DEMO = Grammars(demo_tokenizer(), 2048)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"not": {}}, '"not" at #'),
        ({"properties": {"a": {"items": {"uniqueItems": True}}}}, '"uniqueItems" at #/properties/a/items'),
        ({"if": {}, "then": {}}, '"if" at #'),
        ({"contentEncoding": "base64"}, '"contentEncoding"'),
        ({"nullable": True}, '"nullable"'),
        ({"x-guidance": {"whitespace_flexible": True}}, '"x-guidance"'),
        ({"$dynamicRef": "#a"}, '"\\$dynamicRef"'),
        ({"anyOf": [{}, {"contains": {}}]}, '"contains" at #/anyOf/1'),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"propertyNames": {}}}}, '"propertyNames" at #/\\$defs/a'),
        ({"format": "regex"}, "\"format\" at # 'regex' cannot be enforced, only date"),
        ({"$ref": "https://example.com/schema"}, "leads out of the schema"),
        ({"$ref": "#/$defs/none"}, "names nothing in it"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "draft 2020-12"),
        ({"minProperties": 2, "required": ["a"]}, '"minProperties" at # is 2'),
        ({"enum": ["a\x01"]}, "control character"),
        ({"pattern": "a\\x01b"}, "control character"),
        ({"pattern": "a{20000}"}, "repeats something 20000 times"),
        ({"patternProperties": {"a{20000}": {}}}, "repeats something 20000 times"),
        ({"required": ["a\x01"]}, "control character"),
        ({"format": []}, '"format" at # \\[\\] cannot be enforced'),
        ({"$ref": "#/$defs/o/$defs/a", "$defs": {"o": {"$id": "x:y", "$defs": {"a": {}}}}}, "leads out of the schema"),
        ({"$ref": "#/enum/-1", "enum": [{}]}, "names nothing in it"),
        ({"multipleOf": 99991}, '"multipleOf" at # 99991'),
        ({"allOf": [{"multipleOf": 999}, {"multipleOf": 998}]}, "too many digits to be enforced together"),
        ({"anyOf": [{"multipleOf": 9000 + i} for i in range(9)]}, "too many digits to be enforced together"),
        ({"patternProperties": {f"^{i}": {} for i in range(50)}}, "has 50 patterns; 40"),
        ({"allOf": [{"pattern": str(i)} for i in range(13)]}, "13 times"),
        ({"items": [{}]}, "at #/items, where a schema belongs"),
        ({"anyOf": {}}, '"anyOf" at # must be a list'),
        ({"const": float("nan")}, "cannot be written as JSON"),
        ({"const": {1, 2}}, "cannot be written as JSON"),
        ({"const": "\ud800"}, "cannot be written as JSON"),
        ({"enum": ["x" * 70_000]}, "it may have 65,536"),
        ({"enum": ["a", "x" * 5000]}, "5,000 characters; 4,096 is the most"),
        ({"const": ["x" * 3000] * 2}, "6,008 characters"),
        ({"properties": {"x" * 5000: {}}}, "5,000 characters"),
        ({"pattern": "x" * 5000}, "5,000 characters"),
        (False, "No JSON value fits"),
        ([], "is of type list"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_its_name(schema: Any, words: str) -> None:
    with pytest.raises(NotEnforceable, match=words):
        check_schema(schema)


def test_a_schema_that_is_nested_thousands_deep_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(NotEnforceable, match="nested too deep"):
        check_schema(schema)


def test_notes_and_definitions_that_nothing_refers_to_change_nothing() -> None:
    notes = {"title": "T", "description": "D", "default": 1, "examples": [1], "$comment": "C", "deprecated": True,
             "readOnly": True, "writeOnly": False, "$defs": {"unused": {"not": {}}}}  # fmt: skip
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", "type": "integer"} | notes
    assert takes(DEMO, schema_form(schema), "5")
    assert not takes(DEMO, schema_form(schema), '"5"')


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"enum": []},
        {"enum": [1], "type": "string"},
        {"type": "object", "required": ["a"], "properties": {"a": False}},
        {"allOf": [{"type": "string"}, {"type": "null"}]},
        {"$ref": "#"},
    ],
)
def test_a_schema_that_no_value_fits_is_refused(schema: Any) -> None:
    with pytest.raises(NotEnforceable, match=r"Unsatisfiable|no text has this form"):
        begin(DEMO, schema_form(schema))


@pytest.mark.parametrize("again", ['"\\u0061":"x"', '"a":"x"', '"\\u0061":1'])
def test_a_key_with_a_schema_cannot_come_again_in_another_spelling(again: str) -> None:
    form = schema_form({"properties": {"a": {"type": "integer"}}, "required": ["a"]})
    assert takes(DEMO, form, '{"a":1,"b":"x"}')
    assert not takes(DEMO, form, f'{{"a":1,{again}}}')


@pytest.mark.parametrize("text", ['{"a": 1}', '{\n"a":1}', '{"a":1 }', '{"a":01}', '{"a":+1}', "{'a':1}", '{"a":1,}'])
def test_json_that_is_not_compact_or_no_json_is_not_taken(text: str) -> None:
    assert takes(DEMO, schema_form({"type": "object"}), '{"a":1}')
    assert not takes(DEMO, schema_form({"type": "object"}), text)


@pytest.mark.parametrize("value", ['é"\\ \n\t', "\u2028😀", "\b\f\r", "</s>", "a/b", ""])
def test_text_with_escapes_and_unicode_is_taken_as_it_is(value: str) -> None:
    assert takes(DEMO, schema_form({"enum": [value, "other"]}), compact(value))
    assert takes(DEMO, schema_form({"type": "string", "maxLength": len(value)}), compact(value))
    assert takes(DEMO, schema_form({"const": {value: [value]}}), compact({value: [value]}))


scalars = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["integer", "number", "boolean", "null"])}),
    st.integers(-50, 50).flatmap(lambda a: st.integers(a, a + 99).map(
        lambda b: {"type": "integer", "minimum": a, "maximum": b})),
    st.integers(0, 3).flatmap(lambda a: st.integers(a, 6).map(
        lambda b: {"type": "string", "minLength": a, "maxLength": b})),
    st.sampled_from(["^[a-c]+$", "x", "^(ab|é)*$", "^$"]).map(lambda p: {"type": "string", "pattern": p}),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none(), st.booleans()), min_size=1, max_size=3).map(
        lambda values: {"enum": values}),
    st.sampled_from(["date", "uuid", "ipv4", "time"]).map(lambda f: {"type": "string", "format": f}),
)  # fmt: skip


def bigger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas made of others."""
    names = st.sampled_from(["a", "b", "é", 'q"', "a b"])
    return st.one_of(
        st.tuples(inner, st.integers(0, 2), st.integers(2, 4)).map(
            lambda t: {"type": "array", "items": t[0], "minItems": t[1], "maxItems": t[2]}),
        st.lists(inner, min_size=1, max_size=2).map(lambda s: {"type": "array", "prefixItems": s, "items": False}),
        st.lists(inner, min_size=1, max_size=3).map(lambda s: {"anyOf": s}),
        st.tuples(st.dictionaries(names, inner, max_size=3), st.sets(names, max_size=2), st.booleans()).map(
            lambda t: {"type": "object", "properties": t[0], "required": sorted(t[1]), "additionalProperties": t[2]}),
    )  # fmt: skip


def judge(schema: Any, seed: int) -> None:
    """Draws an answer, where the schema can be enforced, and validates it where it ended."""
    try:
        row = begin(DEMO, schema_form(schema))
    except NotEnforceable:
        return
    ids = draw(row, STOPS, seed, 60)
    if ids is not None:
        jsonschema.validate(json.loads(DEMO._tokenizer.decode(ids)), schema)


ANY = st.recursive(scalars, bigger, max_leaves=5)


@settings(max_examples=8)
@given(ANY, st.integers(0, 2**31))
def test_answers_within_random_schemas_validate(schema: Any, seed: int) -> None:
    judge(schema, seed)


@pytest.mark.slow
@settings(max_examples=300)
@given(ANY, st.integers(0, 2**31))
def test_answers_within_many_random_schemas_validate(schema: Any, seed: int) -> None:
    judge(schema, seed)
