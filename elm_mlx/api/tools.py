"""The tools that an answer may call: from a JSON schema in one of its usual forms, or from a Python function."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from elm_mlx.api.docstrings import description_in
from elm_mlx.api.signatures import arguments_schema
from elm_mlx.arguments import shown
from elm_mlx.errors import InvalidRequest
from elm_mlx.text.tools.schema_check import SchemaCheck, Unusable

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # as long as Anthropic has them; at OpenAI it is 64
MOST_TOOLS = 128
MAX_SCHEMA = 1 << 20  # characters of a tool's schema as JSON
EXAMPLE = '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'


@dataclass(frozen=True)
class Tool:
    """What an answer may call: `parameters` is the JSON schema of its arguments, an object; `function` is what runs,
    where the tool was given as one. `unchecked` says why no arguments are checked, where the schema has parts that
    elm-mlx does not know. Make one with `tool_of`."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any] | None = None
    _check: SchemaCheck | None = field(default=None, repr=False, compare=False)
    unchecked: str | None = field(default=None, compare=False)

    def check(self, arguments: Mapping[str, Any]) -> str | None:
        """How arguments do not fit the tool's schema, as a sentence; None where they fit, or are not checked."""
        if self.unchecked:
            return None
        check = self._check or SchemaCheck(self.parameters)
        return check(arguments, "arguments")

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as OpenAI's API writes it, which is what chat templates are given."""
        said = {"description": self.description} if self.description else {}
        return {"type": "function", "function": {"name": self.name, **said, "parameters": dict(self.parameters)}}


def tool_of(given: object) -> Tool:
    """The tool that is given as OpenAI's object, as the object inside of that (name, description, parameters), as a
    Python function, or as a Tool.

    Of a function the name, the docstring and the type hints count; it may be async. Raises InvalidRequest for what is
    no tool, for a name that is none, and for parameters that are no schema of an object.
    """
    if isinstance(given, Tool):
        return given
    if isinstance(given, Mapping):
        return tool_of_schema(given)
    if callable(given):
        name = getattr(given, "__name__", type(given).__name__)
        return checked_tool(name, description_in(given.__doc__), arguments_schema(given, name), given)
    raise InvalidRequest(f"A tool is {shown(given)}; it must be a function, or an object such as {EXAMPLE}.")


def tool_of_schema(given: Mapping[Any, Any]) -> Tool:
    """The tool of an object. Raises InvalidRequest."""
    if given.get("type", "function") != "function" and "name" not in given:
        raise InvalidRequest(f"A tool is of type {shown(given['type'])}; only functions can be called. Leave it out.")
    inner = given.get("function", given)
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise InvalidRequest(f"A tool has no name: {shown(given)}. Give an object such as {EXAMPLE}.")
    parameters = inner.get("parameters")
    parameters = {"type": "object", "properties": {}} if parameters is None else parameters
    return checked_tool(inner["name"], inner.get("description") or "", parameters, None)


def checked_tool(name: str, description: object, parameters: object, function: Callable[..., Any] | None) -> Tool:
    """A tool whose name and schema mean something. Raises InvalidRequest."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"A tool has the name {shown(name)}; it must be 1 to 128 letters, digits, _, - or dots.")
    if not isinstance(description, str):
        raise InvalidRequest(f"The description of the tool {name} is {shown(description)}; it must be text.")
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise InvalidRequest(f"The parameters of the tool {name} are {shown(parameters)}; they must be the JSON schema "
                             "of an object.")  # fmt: skip
    check = unchecked = None
    try:
        size = len(json.dumps(parameters))
        check = SchemaCheck(parameters)
        check({}, "arguments")
    except Unusable as error:  # a schema may say what nobody here understands; a model may understand it
        unchecked = f"The arguments of the tool {name} are not checked: {error}."
    except (TypeError, ValueError, AttributeError, KeyError, RecursionError, re.error) as error:
        raise InvalidRequest(f"The schema of the tool {name} cannot be used: {error}.") from error
    if size > MAX_SCHEMA:
        raise InvalidRequest(f"The schema of the tool {name} has {size:,} characters; it may have {MAX_SCHEMA:,}. "
                             "Make it smaller.")  # fmt: skip
    return Tool(name, description, parameters, function, check, unchecked)


def tools_of(given: object) -> tuple[Tool, ...]:
    """The tools of a call; none where none are given. Raises InvalidRequest for what is no list of tools, for two of
    one name, and for more than MOST_TOOLS."""
    if given is None:
        return ()
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise InvalidRequest(f"tools is {shown(given)}; it must be a list of functions or JSON schemas.")
    tools = tuple(map(tool_of, given))
    if len(tools) > MOST_TOOLS:
        raise InvalidRequest(f"There are {len(tools)} tools; a call may have up to {MOST_TOOLS}. Leave some out.")
    names = [tool.name for tool in tools]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InvalidRequest(f"Two tools have the name {twice[0]}. Give one of them another.")
    return tools
