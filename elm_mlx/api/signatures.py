"""A Python function's arguments: their JSON schema, and what a call gives in the types that the function has."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from elm_mlx.api.dataclass_schema import instance_of
from elm_mlx.api.docstrings import arguments_in
from elm_mlx.errors import InvalidRequest

PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
LISTS = (list, tuple, set, frozenset, Sequence)
OBJECTS = (dict, Mapping)


def arguments_schema(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """The schema of what a function takes by name. An argument without a default is required; one without a type hint
    may be anything that JSON has. Raises InvalidRequest for arguments that have no name in a call (*args, and those
    before a `/`), for **kwargs, and for types that JSON does not have."""
    try:
        signature = inspect.signature(function)
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:  # hints that are texts are run
        raise InvalidRequest(f"The tool {name} has a signature that cannot be read ({error}). Give a schema for it, or "
                             "write its types in full.") from error  # fmt: skip
    said = arguments_in(function.__doc__, signature.parameters)
    properties = {key: argument_schema(name, one, hints.get(key, Any)) for key, one in signature.parameters.items()}
    for key, text in said.items():
        properties[key].setdefault("description", text)
    needed = [key for key, one in signature.parameters.items() if one.default is one.empty]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | {"required": needed} if needed else schema


def argument_schema(tool: str, one: inspect.Parameter, hint: Any) -> dict[str, Any]:
    """The schema of one argument, with its default where JSON has that."""
    if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
        why = (
            "has no fixed name" if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) else "cannot be given by its name"
        )
        raise InvalidRequest(f"The argument {one} of the tool {tool} {why}, so no model can give it. Give a function "
                             "whose arguments all have names, or a schema.")  # fmt: skip
    schema = schema_of(hint, f"The argument {one.name} of the tool {tool}")
    default = one.default
    return schema | {"default": default} if isinstance(default, str | int | float | None) else schema


def schema_of(hint: Any, where: str) -> dict[str, Any]:
    """The schema of a type hint. Raises InvalidRequest, whose sentence begins with `where`, for a type without one."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return {}
    if origin is Annotated:
        notes = [note for note in arguments[1:] if isinstance(note, str)]
        return schema_of(arguments[0], where) | ({"description": notes[0]} if notes else {})
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    if origin in (Union, types.UnionType):
        parts = [schema_of(one, where) for one in arguments]
        is_plain = all(part.keys() == {"type"} and isinstance(part["type"], str) for part in parts)
        return {"type": [part["type"] for part in parts]} if is_plain else {"anyOf": parts}
    if origin is Literal:
        return {"enum": list(arguments)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [one.value for one in hint]}
    return container_schema(origin or hint, [one for one in arguments if one is not ...], where)


def container_schema(kind: Any, arguments: list[Any], where: str) -> dict[str, Any]:
    """The schema of a list or an object, by the types of what it holds. Raises as `schema_of`."""
    if kind in LISTS:
        if kind is tuple and len(arguments) > 1:
            parts = [schema_of(one, where) for one in arguments]
            return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
        return {"type": "array"} | ({"items": schema_of(arguments[0], where)} if arguments else {})
    if kind in OBJECTS:
        values = schema_of(arguments[1], where) if len(arguments) == 2 else {}
        return {"type": "object"} | ({"additionalProperties": values} if values else {})
    named = getattr(kind, "__name__", str(kind))
    raise InvalidRequest(f"{where} is of type {named}, which no JSON schema is known for. Use text, numbers, true and "
                         "false, lists, dicts, Literal or an Enum, or give a schema for the tool.")  # fmt: skip


def as_hinted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call as the function's type hints have them: Enums, tuples, sets and floats are made of JSON's
    values. What fits no hint stays as it is."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # of a function whose schema was given
        return dict(arguments)
    return {name: hinted(hints.get(name, Any), value) for name, value in arguments.items()}


def hinted(hint: Any, value: Any) -> Any:
    """A JSON value as a type hint has it; the value itself where it does not fit."""
    try:
        return instance_of(hint, value)
    except (ValueError, TypeError, OverflowError):
        return value
