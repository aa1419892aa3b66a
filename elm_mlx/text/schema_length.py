"""The fewest bytes of an answer that fits a JSON schema: a bound from below, for answers that can never end in time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from elm_mlx.text.schema import target

TYPES = ("string", "number", "object", "array", "boolean", "null")
SHORTEST = {"number": 1, "integer": 1, "boolean": 4, "null": 4}
DEEPEST = 12  # schemas inside of one another that are looked at: below, a value counts as one byte


def fewest_bytes(schema: str) -> float:
    """The fewest bytes that a value of a schema has, given as `check_schema` returns it, or fewer; infinity where it is
    certain that no value fits."""
    return Measure(json.loads(schema)).least(True, 0)


class Measure:
    """Finds the fewest bytes of the values of schemas in `root`, each of them once at each depth."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[tuple[int, int], float] = {}

    def least(self, schema: Any, depth: int) -> float:
        """The fewest bytes of a schema's values."""
        schema = self._root if depth == 0 else schema
        if not isinstance(schema, Mapping) or depth > DEEPEST:
            return math.inf if schema is False else 1
        key = id(schema), depth
        if key not in self._known:
            self._known[key] = max(self._asked(schema, depth))
        return self._known[key]

    def _asked(self, schema: Mapping[str, Any], depth: int) -> Iterator[float]:
        """The fewest bytes that each keyword of a schema asks for."""
        given = schema.get("type", TYPES)
        names = [given] if isinstance(given, str) else given
        yield min((self._of_type(name, schema, depth) for name in names), default=1)
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list):
            yield min((size(one) for one in values), default=math.inf)
        if "$ref" in schema:
            yield self.least(target(schema["$ref"], self._root), depth + 1)
        for name in ("anyOf", "oneOf"):
            yield min((self.least(one, depth + 1) for one in schema.get(name, ())), default=1)
        for one in schema.get("allOf", ()):
            yield self.least(one, depth + 1)

    def _of_type(self, name: str, schema: Mapping[str, Any], depth: int) -> float:
        """The fewest bytes of a schema's values of one type."""
        if name == "string":
            return 2 + count(schema, "minLength")
        if name == "array":
            least = count(schema, "minItems")
            first = list(schema.get("prefixItems", ()))[:least]
            more = least - len(first)
            each = 1 + self.least(schema.get("items", True), depth + 1) if more else 0
            return 1 + max(sum(1 + self.least(one, depth + 1) for one in first) + more * each, 1)
        if name == "object":
            known = schema.get("properties", {})
            keys = set(schema.get("required", ()))
            return 1 + max(sum(size(key) + 2 + self.least(known.get(key, True), depth + 1) for key in keys), 1)
        return SHORTEST.get(name, 1)


def size(value: Any) -> int:
    """The fewest bytes of a value in an answer, where 1000.0 may be written 1e3, which is one byte at least."""
    if isinstance(value, float):
        return 1
    if isinstance(value, list):
        return 1 + max(sum(size(one) + 1 for one in value), 1)
    if isinstance(value, dict):
        return 1 + max(sum(size(key) + size(one) + 2 for key, one in value.items()), 1)
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def count(schema: Mapping[str, Any], name: str) -> int:
    """The value of a keyword that counts, 0 where there is none."""
    value = schema.get(name, 0)
    return int(value) if isinstance(value, int | float) and value > 0 else 0
