"""Arguments that a model wrote as texts, in the types that the tool's schema asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from elm_mlx.text.tools.json_calls import MAX_DIGITS, json_within

MAX_DEPTH = 64  # of schemas in schemas
INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
WORDS: dict[str, dict[str, Any]] = {
    "boolean": {"true": True, "false": False, "True": True, "False": False},
    "null": {"null": None, "None": None},
}


def types_of(schema: object, depth: int = MAX_DEPTH) -> set[str]:
    """The types that a schema names, itself or in anyOf and oneOf; none where it leaves that open."""
    if not isinstance(schema, Mapping) or not depth:
        return set()
    named = schema.get("type")
    found = {one for one in (named if isinstance(named, list | tuple) else [named]) if isinstance(one, str)}
    for one in (*listed(schema, "anyOf"), *listed(schema, "oneOf")):
        if not (more := types_of(one, depth - 1)):
            return set()
        found |= more
    return found


def listed(schema: Mapping[str, Any], key: str) -> list[Any]:
    """The schemas of a list in a schema."""
    return found if isinstance(found := schema.get(key), list) else []


def coerced(value: Any, schema: object, depth: int = MAX_DEPTH) -> Any:
    """The value in the type that its schema asks for.

    A text becomes a number, true, false or null, or a list or an object (as JSON writes them), where the schema names
    types, the text is one of them, and a text itself is not allowed. Everything else stays as it is.
    """
    if not isinstance(schema, Mapping) or not depth:
        return value
    if isinstance(value, str):
        types = types_of(schema)
        return value if "string" in types else from_text(value, types)
    if isinstance(value, Mapping):
        parts, rest = schema.get("properties"), schema.get("additionalProperties")
        parts = parts if isinstance(parts, Mapping) else {}
        return {key: coerced(one, parts.get(key, rest), depth - 1) for key, one in value.items()}
    if isinstance(value, list):
        return [coerced(one, schema.get("items"), depth - 1) for one in value]
    return value


def from_text(text: str, types: set[str]) -> Any:
    """What a text says in one of these types; the text itself where it says nothing in them."""
    word = text.strip()
    for kind, words in WORDS.items():
        if kind in types and word in words:
            return words[word]
    if "integer" in types and len(word) <= MAX_DIGITS and INTEGER.fullmatch(word):
        return int(word)
    number = "number" in types and len(word) <= MAX_DIGITS and NUMBER.fullmatch(word)
    if not (number or (word[:1] == "[" and "array" in types) or (word[:1] == "{" and "object" in types)):
        return text
    try:
        return json_within(word)
    except ValueError:
        return text
