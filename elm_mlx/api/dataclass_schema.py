"""Dataclasses as JSON schemas, and JSON values as their instances."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from elm_mlx.errors import NotEnforceable

PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
UNIONS = (Union, types.UnionType)
LARGEST = sys.float_info.max
LISTS, MAPS = (list, tuple), (dict, Mapping)
MADE_OF_LISTS = (*LISTS, set, frozenset)


def schema_of(made: type) -> dict[str, Any]:
    """The JSON schema of a dataclass: its fields in their order, those without a default required, no others allowed.

    Fields may be str, int, float, bool, None, Any, a Literal, an Enum, a dataclass, a list, a tuple of one kind
    (tuple[int, ...]), a dict with str for its keys, and unions of these. A text in Annotated is a field's description,
    and nothing else may be in it.
    Raises NotEnforceable for other kinds, and for a class whose annotations cannot be read.
    """
    known: dict[type, dict[str, Any]] = {}
    root = schema_of_kind(made, known, made.__name__)
    named = {name_of(kind): schema for kind, schema in known.items()}
    if len(named) < len(known):
        raise NotEnforceable(f"Two dataclasses in {made.__name__} have one name. Rename one.")
    return root | {"$defs": named}


def name_of(made: type) -> str:
    return made.__name__


def object_schema(made: type, known: dict[type, dict[str, Any]]) -> dict[str, Any]:
    """The schema of a dataclass's fields."""
    if hasattr(made, "__pydantic_fields__"):
        raise NotEnforceable(f"{made.__name__} is a dataclass that pydantic has made, whose bounds would not be "
                             "enforced. Make it a pydantic model.")  # fmt: skip
    fields = [field for field in dataclasses.fields(made) if field.init]
    kinds = kinds_of(made)
    names = [field.name for field in fields]
    return {
        "type": "object",
        "properties": {name: schema_of_kind(kinds[name], known, f"{made.__name__}.{name}") for name in names},
        "required": [field.name for field in fields if not has_default(field)],
        "additionalProperties": False,
    }


def has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def kinds_of(made: type) -> dict[str, Any]:
    """The annotations of a class by the names of its fields. Raises NotEnforceable where they cannot be read."""
    try:
        return get_type_hints(made, include_extras=True)
    except Exception as error:
        raise NotEnforceable(f"The annotations of {made.__name__} cannot be read: {error}. Import what they name, or "
                             "give a schema as a dict.") from error  # fmt: skip


def schema_of_kind(kind: Any, known: dict[type, dict[str, Any]], where: str) -> dict[str, Any]:
    """The schema of an annotation; dataclasses are put into `known` and referred to. Raises NotEnforceable, with the
    field's name."""
    origin, given = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return schema_of_kind(given[0], known, where) | noted(given[1:], where)
    if kind in PLAIN or kind is None:
        return {"type": PLAIN.get(kind, "null")}
    if kind is Any:
        return {}
    if origin in UNIONS:
        return {"anyOf": [schema_of_kind(one, known, where) for one in given]}
    if (values := fixed_values(kind)) is not None:
        return {"enum": values}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return reference(kind, known)
    if (found := collection(kind, known, where)) is not None:
        return found
    raise NotEnforceable(f"{where} is of the kind {kind!r:.80}, which has no JSON schema here. Use str, int, float, "
                         "bool, None, Literal, Enum, list, dict, a dataclass, or give a schema as a dict.")  # fmt: skip


def fixed_values(kind: Any) -> list[Any] | None:
    """The values of a Literal or an Enum; None for all other kinds, and where JSON does not have them."""
    if get_origin(kind) is Literal:
        values = [*get_args(kind)]
    elif isinstance(kind, type) and issubclass(kind, Enum):
        values = [one.value for one in kind]
    else:
        return None
    return values if all(type(one) in PLAIN for one in values) else None


def noted(notes: tuple[Any, ...], where: str) -> dict[str, Any]:
    """What the notes of an Annotated say: the first text is the description. Raises NotEnforceable for all but texts,
    which might be bounds."""
    if other := [one for one in notes if not isinstance(one, str)]:
        raise NotEnforceable(f"{where} is annotated with {other[0]!r:.80}, which would not be enforced. Leave it out, "
                             "or give a pydantic model, or a schema as a dict.")  # fmt: skip
    return {"description": notes[0]}


def reference(made: type, known: dict[type, dict[str, Any]]) -> dict[str, Any]:
    """A reference to a dataclass's schema, which is made where it is new."""
    if made not in known:
        known[made] = {}  # a field of it may be of its own kind
        known[made] = object_schema(made, known)
    return {"$ref": f"#/$defs/{name_of(made)}"}


def collection(kind: Any, known: dict[type, dict[str, Any]], where: str) -> dict[str, Any] | None:
    """The schema of a list, a tuple of one kind or a dict, None for all else."""
    origin, given = get_origin(kind) or kind, get_args(kind)
    if origin is tuple and (len(given) != 2 or given[1] is not ...):
        return None
    if origin in LISTS:
        return {"type": "array"} | ({"items": schema_of_kind(given[0], known, where)} if given else {})
    if origin in MAPS and given[:1] in ((), (str,)):
        more = {"additionalProperties": schema_of_kind(given[1], known, where)} if given else {}
        return {"type": "object"} | more
    return None


def instance_of(kind: Any, value: Any) -> Any:
    """A JSON value as the annotation has it: dataclasses, Enums, tuples and floats are made of it. Raises ValueError or
    TypeError where it does not fit."""
    origin, given = get_origin(kind) or kind, get_args(kind)
    if origin is Annotated:
        return instance_of(given[0], value)
    if origin in UNIONS:
        return instance_of(fitting(given, value), value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        kinds = kinds_of(kind)
        return kind(**{name: instance_of(kinds[name], one) for name, one in value.items()})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is float:
        return float(max(-LARGEST, min(value, LARGEST)))
    if origin in MADE_OF_LISTS and isinstance(value, list):
        return origin(map(instance_of, kinds_within(kind, len(value)), value))
    if origin in MAPS and given and isinstance(value, dict):
        return {key: instance_of(given[1], one) for key, one in value.items()}
    return value


def kinds_within(kind: Any, count: int) -> tuple[Any, ...]:
    """The kinds of the items of a list, a tuple or a set of so many."""
    given = get_args(kind) or (Any,)
    return given if get_origin(kind) is tuple and ... not in given else given[:1] * count


def fitting(kinds: tuple[Any, ...], value: Any) -> Any:
    """The first of the kinds that a JSON value fits. Raises ValueError where it fits none."""
    return next((kind for kind in kinds if fits(kind, value)), None) or raise_unfitting(value)


def raise_unfitting(value: Any) -> Any:
    raise ValueError(f"{value!r:.80} fits none of the kinds.")


def fits(kind: Any, value: Any) -> bool:
    """Whether a JSON value has this kind."""
    origin, given = get_origin(kind) or kind, get_args(kind)
    if origin is Annotated:
        return fits(given[0], value)
    if origin in UNIONS:
        return any(fits(one, value) for one in given)
    if origin is Literal:
        return any(type(one) is type(value) and one == value for one in given)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return isinstance(value, dict) and fits_fields(kind, value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return any(type(one.value) is type(value) and one.value == value for one in kind)
    if origin in MADE_OF_LISTS:
        return isinstance(value, list) and all(map(fits, kinds_within(kind, len(value)), value))
    if origin in MAPS:
        return isinstance(value, dict) and all(fits(given[1], one) for one in value.values() if given)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return kind is Any or (value is None if kind in (None, type(None)) else type(value) is kind)


def fits_fields(made: type, value: dict[str, Any]) -> bool:
    """Whether an object has a dataclass's fields: those that it must have, and no others."""
    fields = {field.name: field for field in dataclasses.fields(made) if field.init}
    kinds = kinds_of(made)
    needed = {name for name, field in fields.items() if not has_default(field)}
    return needed <= value.keys() <= fields.keys() and all(fits(kinds[name], one) for name, one in value.items())
