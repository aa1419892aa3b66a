"""Which JSON schemas can be enforced: every keyword is looked at, so that none is ignored in silence.

The keywords are those of draft 2020-12 (json-schema.org/draft/2020-12). What is known here of them was found by the
draft's own test suite: tests/text/test_schema_suite.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from elm_mlx.errors import NotEnforceable
from elm_mlx.text.form_bounds import (
    MOST_LAID_OVER,
    MOST_PATTERNS,
    MOST_STATES,
    check_repeats,
    check_written,
    has_rounded,
    states_of,
)
from elm_mlx.text.schema_reference import Nowhere, Outside, referred

Schema = Mapping[str, Any]
MOST_CHARACTERS = 1 << 16
DEEPEST = 60  # schemas inside of one another; llguidance reads JSON that is 128 deep
# The last one is OpenAPI's: it names the property by which the parts of a oneOf differ, and they say that themselves.
NOTES = frozenset("title description default examples $comment deprecated readOnly writeOnly discriminator".split())
NAMED = frozenset(("$defs", "definitions"))  # schemas that count where a $ref names them
IN_MAPS = ("properties", "patternProperties")  # keywords -> what holds further schemas there
IN_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf")
ALONE = ("additionalProperties", "items")
PLAIN = frozenset(
    "type enum const minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf "
    "minItems maxItems required minProperties maxProperties $ref".split()
)
KNOWN = NOTES | NAMED | PLAIN | {*IN_MAPS, *IN_LISTS, *ALONE}
WRITTEN = ("enum", "const", "properties", "required")  # keywords whose values, or keys, stand in the answer
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const")
JOINING = frozenset(("anyOf", "oneOf", "$ref"))
JOINED = frozenset(("pattern", "format", "multipleOf"))
FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid uri".split())
# Drafts in which the keywords above mean the same, or less.
DRAFTS = re.compile(r"https?://json-schema\.org/(draft-0[67]|draft/(2019-09|2020-12))/schema#?")

# Control characters whose escape in JSON has no letter of its own. llguidance would leave them out, in silence.
UNSPELLED = re.compile(r"(?<!\\)(\\\\)*\\u00[01]|\x7f")
UNSPELLED_PATTERN = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]|\\(x[01]|x7[fF]|u00[01]|u007[fF]|[xu]\{|[cv0ae])")


class Place(NamedTuple):
    """A schema inside of another: the value, its JSON pointer, and how many schemas it lies in."""

    value: Any
    where: str
    depth: int = 0


def check_schema(schema: object) -> str:
    """Returns a schema as the JSON text that is enforced, keys in their order.

    Raises NotEnforceable for what is no schema, for a keyword or a value of one that cannot be enforced, which the
    message names, and for a reference that leads nowhere or into another file.
    """
    if schema is True:
        return "{}"
    if not isinstance(schema, Mapping):
        raise NotEnforceable("No JSON value fits the schema false." if schema is False else
                             f"A JSON schema is an object; this one is of type {type(schema).__name__}.")  # fmt: skip
    check_draft(schema.get("$schema"))
    text = json_of({name: value for name, value in schema.items() if name not in ("$schema", "$id")})
    root = json.loads(text)
    waiting, met = [Place(root, "#")], dict[int, Any]()
    while waiting:
        place = waiting.pop()
        if id(place.value) not in met:
            met[id(place.value)] = place.value
            waiting += inner(place, root)
    check_laid_over([one for one in met.values() if isinstance(one, dict)])
    return text


def check_laid_over(schemas: list[dict[str, Any]]) -> None:
    """Raises NotEnforceable for many patterns where schemas are laid over one another, and for multiples that have too
    many states together: laid over one another, each of one with each of the other."""
    patterns = sum(name in one for one in schemas for name in ("pattern", "format"))
    joins = any("allOf" in one or (JOINED & one.keys() and JOINING & one.keys()) for one in schemas)
    if joins and patterns > MOST_LAID_OVER:
        raise NotEnforceable(f'The schema has {patterns} times "pattern" or "format", and lays schemas over one '
                             f"another; then {MOST_LAID_OVER} is the most. Leave some out.")  # fmt: skip
    states = {max(states_of(one.get("multipleOf")), 1) for one in schemas}
    if (math.prod(states) if joins else sum(states)) > MOST_STATES:
        raise NotEnforceable('The values of "multipleOf" in the schema have too many digits to be enforced together. '
                             "Leave some out.")  # fmt: skip


def json_of(schema: Schema) -> str:
    """A schema as JSON. Raises NotEnforceable for values that JSON does not have, and for one that is too large."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except RecursionError as error:
        raise NotEnforceable('The schema is nested too deep. Make it flatter, for example with "$defs".') from error
    except (ValueError, TypeError) as error:
        raise NotEnforceable(f"The schema cannot be written as JSON: {error}.") from error
    check_length(text)
    return text


def check_length(text: str) -> None:
    """Raises NotEnforceable for a schema of more than 64 kB."""
    if len(text) > MOST_CHARACTERS:
        raise NotEnforceable(f"The schema has {len(text):,} characters; it may have {MOST_CHARACTERS:,}. Make it "
                             "smaller.")  # fmt: skip


def check_draft(name: object) -> None:
    """Raises NotEnforceable for a draft whose keywords mean something else."""
    if name is not None and not (isinstance(name, str) and DRAFTS.fullmatch(name)):
        raise NotEnforceable(f"The schema's \"$schema\" is {name!r:.100}; elm-mlx knows draft 2020-12, and what "
                             "earlier drafts from 6 on have in common with it.")  # fmt: skip


def inner(place: Place, root: Schema) -> Iterator[Place]:
    """The schemas directly inside of one, those that it refers to among them. Raises NotEnforceable."""
    schema, where, depth = place
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise NotEnforceable(
            f"The schema has a value of type {type(schema).__name__} at {where}, where a schema belongs."
        )
    if depth > DEEPEST:
        raise NotEnforceable(f"The schema is nested more than {DEEPEST} deep. Make it flatter, for example with "
                             "\"$defs\".")  # fmt: skip
    check_keywords(schema, where)
    for name in IN_MAPS:
        for key, value in parts(schema, name, where, Mapping, "an object").items():
            yield Place(value, f"{where}/{name}/{key}", depth + 1)
    for name in IN_LISTS:
        for number, value in enumerate(parts(schema, name, where, list, "a list")):
            yield Place(value, f"{where}/{name}/{number}", depth + 1)
    for name in (name for name in ALONE if name in schema):
        yield Place(schema[name], f"{where}/{name}", depth + 1)
    if "$ref" in schema:
        yield Place(target(schema["$ref"], root), str(schema["$ref"]))


def parts(schema: Schema, name: str, where: str, kind: type, called: str) -> Any:
    """The schemas under a keyword: none where it is not there. Raises NotEnforceable for a value of another kind."""
    found = schema.get(name, kind() if kind is list else {})
    if not isinstance(found, kind):
        raise NotEnforceable(f'The schema\'s "{name}" at {where} must be {called} of schemas.')
    return found


def check_keywords(schema: Schema, where: str) -> None:
    """Raises NotEnforceable for a keyword of one schema that cannot be enforced, by its name."""
    for name, value in schema.items():
        if name not in KNOWN:
            refuse(name, where, "cannot be enforced. Leave it out, and judge the answer by it yourself.")
        if name == "format" and not (isinstance(value, str) and value in FORMATS):
            refuse(name, where, f"{value!r:.60} cannot be enforced, only {', '.join(sorted(FORMATS))}. Leave it out.")
        if name == "multipleOf" and states_of(value) > MOST_STATES:
            refuse(name, where, f"{value} has too many digits to be enforced.")
        for pattern in patterns_in(name, value):
            check_repeats(f'The schema\'s "{name}" at {where:.200}', pattern)
            check_written(f'The schema\'s "{name}" at {where:.200}', pattern)
        if name in NUMBERS and has_rounded(value):
            refuse(name, where, "has a number that cannot be enforced exactly: it may have 15 digits, and no more than "
                   "22 of them after the point.")  # fmt: skip
        if name == "patternProperties" and isinstance(value, Mapping) and len(value) > MOST_PATTERNS:
            refuse(name, where, f"has {len(value)} patterns; {MOST_PATTERNS} is the most that can be enforced.")
        for one in written_in(name, value):
            check_written(f'A value of the schema\'s "{name}" at {where:.200}', one)
        if has_unspelled(name, value):
            refuse(name, where, "has a control character, which cannot be enforced. Write it without one.")
    least, needed = schema.get("minProperties", 0), schema.get("required", ())
    count = len(set(map(str, needed))) if isinstance(needed, list) else 0
    if isinstance(least, int | float) and least > count:
        refuse("minProperties", where, f"is {least}, and cannot be enforced beyond the {count} properties that are "
               f"required, as an answer may have another key twice. Make it {count} at most.")  # fmt: skip


def refuse(name: str, where: str, why: str) -> NoReturn:
    """Raises NotEnforceable for a keyword of the schema at a place."""
    raise NotEnforceable(f'The schema\'s "{name:.80}" at {where:.200} {why}')


def written_in(name: str, value: Any) -> Iterator[str]:
    """The texts of a keyword's value that stand in an answer as they are."""
    if name in WRITTEN:
        values = [value] if name == "const" else value if isinstance(value, list | Mapping) else ()
        yield from (one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in values)


def patterns_in(name: str, value: Any) -> list[str]:
    """The regular expressions that a keyword's value has."""
    if name == "pattern":
        return [value] if isinstance(value, str) else []
    return [*value] if name == "patternProperties" and isinstance(value, Mapping) else []


def has_unspelled(name: str, value: Any) -> bool:
    """Whether a keyword's value has a control character that JSON has no short escape for."""
    if any(map(UNSPELLED_PATTERN.search, patterns_in(name, value))):
        return True
    if name == "properties" and isinstance(value, Mapping):
        value = [*value]
    return name in WRITTEN and bool(UNSPELLED.search(json.dumps(value, ensure_ascii=False)))


def target(reference: object, root: Schema) -> Any:
    """The schema that a $ref names. Raises NotEnforceable for one outside of this schema, or one that is not there."""
    try:
        return referred(reference, root)
    except Outside as error:
        raise NotEnforceable(f'The schema\'s "$ref" {reference!r:.100} leads out of the schema. Put what it names into '
                             '"$defs", and refer to that by "#/$defs/NAME".') from error  # fmt: skip
    except Nowhere as error:
        raise NotEnforceable(
            f'The schema\'s "$ref" {reference!r:.100} names nothing in it. Correct the reference.'
        ) from error
