"""The tools that a request of OpenAI's API offers, and which of them it wants to be called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from elm_mlx.arguments import shown
from elm_mlx.errors import InvalidRequest
from elm_mlx.protocols.fields import Fields
from elm_mlx.protocols.refusal import FieldRefused

CHOICES = ("none", "auto", "required")
MODES = ("auto", "required")  # of tools that are allowed
CHOICE = ("type", "function", "allowed_tools", "name", "mode", "tools")  # what an object of a tool_choice may have
FUNCTION = ("name", "description", "parameters", "strict")  # what a function of a chat may have
Tools = tuple[Any, ...] | None  # of elm_mlx.Tool
Inside = Callable[[Fields, str], Fields]


def tools_in(body: Fields) -> Tools:
    """The tools of a chat, as elm_mlx.Tool; None where there are none. Raises FieldRefused for what is none."""
    return together([read_tool(tool) for tool in listed_tools(body)]) or None


def listed_tools(body: Fields) -> Iterator[Fields]:
    """The fields of each tool of a request. Raises FieldRefused for what is no list of objects, and for too many
    tools, before any is read: that takes time."""
    from elm_mlx.api.tools import MOST_TOOLS  # here, as it brings MLX

    if (count := len(body.listed("tools"))) > MOST_TOOLS:
        body.refuse("tools", f"has {count:,} tools; it may have {MOST_TOOLS}. Send fewer.")
    return body.objects("tools")


def together(tools: Sequence[Any]) -> tuple[Any, ...]:
    """The tools of one request. Raises FieldRefused for too many of them, and for two of one name."""
    from elm_mlx.api.tools import tools_of  # here, as it brings MLX

    try:
        return tools_of(tools)
    except InvalidRequest as error:
        raise FieldRefused("tools", str(error)) from error


def read_tool(tool: Fields) -> Any:
    """One tool of a chat. Raises FieldRefused for one of another type than functions, and for one without meaning."""
    if (kind := tool.get("type")) not in (None, "function"):
        tool.refuse("type", f"is {shown(kind)}; only functions can be called here.", "unsupported_parameter")
    tool.check(("type", "function"))
    function = tool.needed("function")
    function.check(FUNCTION)
    return read_function(function, function.value)


def read_function(told: Fields, function: Mapping[str, Any], schema: str = "parameters") -> Any:
    """The tool of a function's name, description and parameters, which stand in the fields that are `told`, the last
    one as `schema`; that is noted where no arguments are checked by it. Raises FieldRefused."""
    from elm_mlx.api.tools import tool_of  # here, as it brings MLX

    try:
        tool = tool_of(function)
    except InvalidRequest as error:
        raise FieldRefused(told.at, str(error)) from error
    if tool.unchecked:
        told.leftovers.add(told.path(schema), tool.unchecked)
    return tool


class Chosen(NamedTuple):
    """The tools that an answer may call, and which of them: "none", "auto", "required" or a name; None where a request
    does not say."""

    tools: Tools
    choice: str | None


def chosen(body: Fields, tools: Tools, inside: Inside = Fields.needed) -> Chosen:
    """What a request's tool_choice leaves of its tools, and chooses. In a chat an object of it has another one in it,
    named by its type; `inside` gives that, by its name. Raises FieldRefused."""
    if isinstance(body.get("tool_choice"), Mapping):
        choice = body.inner("tool_choice")
        choice.check(CHOICE)
        if choice.get("type") == "allowed_tools":
            return allowed(inside(choice, "allowed_tools"), tools, inside)
        return Chosen(tools, named(choice, tools, inside))
    word = body.one_of("tool_choice", CHOICES)
    if word == "required" and not tools:
        body.refuse("tool_choice", "is required, and there are no functions to call. Give one in tools.")
    return Chosen(tools, word if tools else None)


def allowed(given: Fields, tools: Tools, inside: Inside) -> Chosen:
    """Those of the tools that a request allows, and whether one has to be called. Raises FieldRefused."""
    mode = given.one_of("mode", MODES) or given.wrong("mode", " or ".join(MODES))
    names = {named(one, tools, inside) for one in given.objects("tools")}
    if not names:
        given.wrong("tools", "a list of one function or more")
    return Chosen(tuple(tool for tool in tools or () if tool.name in names), mode)


def named(choice: Fields, tools: Tools, inside: Inside) -> str:
    """The name of the function that is chosen. Raises FieldRefused for a tool of another kind, and for one that is not
    among the tools."""
    if choice.get("type") != "function":
        choice.wrong("type", "function: elm-mlx has no other tools")
    function = inside(choice, "function")
    name = function.full_text("name")
    if name not in [tool.name for tool in tools or ()]:
        function.refuse("name", f"is {shown(name)}, and no function in tools has that name.")
    return name
