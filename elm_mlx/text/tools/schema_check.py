"""Whether a value fits a JSON schema, or how it does not: the keywords that tools use, without a package of its own.

What they mean is said by JSON Schema 2020-12 (https://json-schema.org/draft/2020-12/json-schema-validation).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.text.schema_reference import Nowhere, Outside, referred

MAX_DEPTH = 64  # of schemas in schemas, references included
MOST_STEPS = 100_000  # of a check, each a value against a schema: a second; references can ask for 2 ** MAX_DEPTH
REFUSED = ("$dynamicRef", "$recursiveRef", "unevaluatedItems", "unevaluatedProperties", "dependencies",
           "additionalItems")  # fmt: skip
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # schemas by names
VALUES = ("enum", "const", "default", "examples", "required", "dependentRequired")  # values, and no schemas
KINDS: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": lambda value: is_number(value),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list | tuple),
    "object": lambda value: isinstance(value, Mapping),
}


class Unusable(ValueError):
    """The schema itself has no meaning here: its message says why."""


class TooLong(Exception):
    """A check takes more than MOST_STEPS."""


def is_number(value: object) -> bool:
    """Whether a value is a number of JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def key_of(value: Any) -> Any:
    """A value as something that can be compared and looked up, equal where JSON's values are: 1 is 1.0, but not
    true."""
    if isinstance(value, Mapping):
        return "object", frozenset((key, key_of(one)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return "array", tuple(map(key_of, value))
    return isinstance(value, bool), value


class SchemaCheck:
    """Checks values against one schema. Raises Unusable for a schema that has no meaning, or that has keywords which
    are not known here and would forbid something."""

    def __init__(self, schema: object) -> None:
        self._root = schema
        for part in schemas_in(schema):
            if found := [key for key in REFUSED if key in part]:
                raise Unusable(f"it has the keyword {found[0]}, which is not checked here")
            if "$ref" in part:
                self._resolve(part["$ref"])
            check_patterns(part)

    def __call__(self, value: Any, where: str) -> str | None:
        """How a value, which `where` names, does not fit the schema, as a sentence; None where it fits."""
        try:
            return self._check(value, self._root, where, MAX_DEPTH, iter(range(MOST_STEPS)))
        except TooLong:
            return f"{where} cannot be checked: that takes too long."
        except (TypeError, AttributeError, KeyError, ValueError, RecursionError):  # such as properties that are 5
            return f"{where} cannot be checked, as the schema has values that mean nothing there."

    def _resolve(self, reference: object) -> Any:
        """The part of the schema that a reference names."""
        try:
            return referred(reference, self._root)
        except Outside as error:
            raise Unusable(f"its reference {shown(reference)} names no part of it") from error
        except Nowhere as error:
            raise Unusable(f"its reference {shown(reference)} names nothing in it") from error

    def _check(self, value: Any, schema: Any, where: str, depth: int, steps: Iterator[int]) -> str | None:
        if isinstance(schema, bool) or not isinstance(schema, Mapping):
            return None if schema is not False else f"{where} is not allowed."
        if not depth:
            return f"{where} is nested too deeply to be checked."
        if next(steps, None) is None:
            raise TooLong
        into = partial(self._check, depth=depth - 1, steps=steps)
        if "$ref" in schema and (wrong := into(value, self._resolve(schema["$ref"]), where)):
            return wrong
        found = (check(value, schema, where) for check in (check_kind, check_number, check_size))
        nested = (check(value, schema, where, into) for check in NESTED)
        return next((wrong for wrong in (*found, *nested) if wrong), None)


Into = Callable[[Any, Any, str], str | None]


def schemas_in(schema: object, depth: int = MAX_DEPTH) -> Iterator[Mapping[str, Any]]:
    """A schema and all the schemas in it."""
    if not isinstance(schema, Mapping) or not depth:
        return
    yield schema
    for key, part in schema.items():
        if key in VALUES:
            continue
        named = part.values() if key in NAMED and isinstance(part, Mapping) else [part]
        found: Iterable[object] = part if isinstance(part, list | tuple) else named
        for one in found:
            yield from schemas_in(one, depth - 1)


def check_patterns(schema: Mapping[str, Any]) -> None:
    """Raises Unusable for a regular expression in a schema that is none in Python."""
    patterns = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
    for pattern in (*patterns, *schema.get("patternProperties", {})):
        try:
            re.compile(pattern)
        except re.error as error:
            raise Unusable(f"its pattern {shown(pattern)} is none that Python knows ({error})") from error


def check_kind(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    """type, enum, const."""
    named = schema.get("type", [])
    named = [named] if isinstance(named, str) else named
    if named and not any(KINDS[kind](value) for kind in named if kind in KINDS):
        return f"{where} is {shown(value)}; it must be of type {' or '.join(map(str, named))}."
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if allowed is not None and key_of(value) not in map(key_of, allowed):
        listed = ", ".join(map(shown, allowed[:8])) + (", ..." if len(allowed) > 8 else "")
        return f"{where} is {shown(value)}; it must be {'one of ' * (len(allowed) > 1)}{listed}."
    return None


def check_number(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    """minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf."""
    if not is_number(value):
        return None
    rules: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
        ("minimum", "at least", lambda bound: value >= bound),
        ("maximum", "at most", lambda bound: value <= bound),
        ("exclusiveMinimum", "above", lambda bound: value > bound),
        ("exclusiveMaximum", "below", lambda bound: value < bound),
        ("multipleOf", "a multiple of", lambda bound: is_multiple(value, bound)),
    )
    for key, words, holds in rules:
        if is_number(bound := schema.get(key)) and not holds(bound):
            return f"{where} is {shown(value)}; it must be {words} {bound}."
    return None


def is_multiple(value: float, unit: float) -> bool:
    """Whether a number is a whole number of units, as decimal digits show both: 0.3 is three times 0.1."""
    if not unit or not all(isinstance(one, int) or math.isfinite(one) for one in (value, unit)):
        return False
    return (Fraction(str(value)) / Fraction(str(unit))).denominator == 1


def check_size(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    """minLength, maxLength, pattern; minItems, maxItems; minProperties, maxProperties."""
    for kind, name, what in ((str, "Length", "characters"), (list, "Items", "items"), (Mapping, "Properties", "names")):
        if isinstance(value, kind):
            least, most = schema.get(f"min{name}", 0), schema.get(f"max{name}", math.inf)
            if not least <= len(value) <= most:
                bound = f"at least {least}" if len(value) < least else f"at most {most}"
                return f"{where} has {len(value)} {what}; it must have {bound}."
    pattern = schema.get("pattern")
    if isinstance(value, str) and isinstance(pattern, str) and not re.search(pattern, value):
        return f"{where} is {shown(value)}; it must match the pattern {pattern}."
    return None


def check_all(value: Any, schema: Mapping[str, Any], where: str, into: Into) -> str | None:
    """allOf, not, if with then and else."""
    for part in schema.get("allOf", ()):
        if wrong := into(value, part, where):
            return wrong
    if "not" in schema and into(value, schema["not"], where) is None:
        return f"{where} is {shown(value)}, which is not allowed."
    if "if" in schema:
        return into(value, schema.get("else" if into(value, schema["if"], where) else "then", True), where)
    return None


def check_choices(value: Any, schema: Mapping[str, Any], where: str, into: Into) -> str | None:
    """anyOf, oneOf."""
    for key in ("anyOf", "oneOf"):
        if key in schema:
            wrongs = [into(value, part, where) for part in schema[key]]
            fitting = wrongs.count(None)
            if not fitting:
                return (
                    wrongs[0]
                    if len(wrongs) == 1
                    else f"{where} is {shown(value)}; none of its {len(wrongs)} forms fits."
                )
            if key == "oneOf" and fitting > 1:
                return f"{where} is {shown(value)}; {fitting} of its forms fit, and one has to."
    return None


def check_list(value: Any, schema: Mapping[str, Any], where: str, into: Into) -> str | None:
    """prefixItems, items, contains with minContains and maxContains, uniqueItems."""
    if not isinstance(value, list | tuple):
        return None
    first = schema.get("prefixItems", ())
    for place, one in enumerate(value):
        part = first[place] if place < len(first) else schema.get("items", True)
        if wrong := into(one, part, f"{where}[{place}]"):
            return wrong
    if "contains" in schema:
        found = sum(into(one, schema["contains"], where) is None for one in value)
        if not schema.get("minContains", 1) <= found <= schema.get("maxContains", math.inf):
            return f"{where} has {found} items of the form that `contains` names."
    if schema.get("uniqueItems") is True and len(set(map(key_of, value))) < len(value):
        return f"{where} has an item twice."
    return None


def check_object(value: Any, schema: Mapping[str, Any], where: str, into: Into) -> str | None:
    """properties, patternProperties, additionalProperties, propertyNames."""
    if not isinstance(value, Mapping):
        return None
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    rest = schema.get("additionalProperties", True)
    for key, one in value.items():
        parts = [known[key]] if key in known else []
        parts += [part for pattern, part in patterns.items() if re.search(pattern, key)]
        if not parts and rest is False:
            return f"{where} has {key:.80}, which the schema does not know."
        wrongs = [into(one, part, f"{where}.{key}") for part in parts or [rest]]
        wrongs.append(into(key, schema.get("propertyNames", True), f"The name {shown(key)}"))
        if wrong := next((wrong for wrong in wrongs if wrong), None):
            return wrong
    return None


def check_needs(value: Any, schema: Mapping[str, Any], where: str, into: Into) -> str | None:
    """required, dependentRequired, dependentSchemas."""
    if not isinstance(value, Mapping):
        return None
    for key in schema.get("required", ()):
        if key not in value:
            return f"{where} lacks {key}."
    for key, needed in schema.get("dependentRequired", {}).items():
        if key in value and (lacking := [one for one in needed if one not in value]):
            return f"{where} has {key} and lacks {lacking[0]}."
    for key, part in schema.get("dependentSchemas", {}).items():
        if key in value and (wrong := into(value, part, where)):
            return wrong
    return None


NESTED = (check_needs, check_all, check_choices, check_list, check_object)  # keywords with schemas in them
