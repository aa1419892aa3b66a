"""The tools that a request of OpenAI's API offers, and which of them it wants to be called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.errors import InvalidRequest
from elm_mlx.protocols.fields import Fields
from elm_mlx.protocols.refusal import FieldRefused

CHOICES = ("none", "auto", "required")
FUNCTION = ("name", "description", "parameters", "strict")  # what a function of a chat may have
Tools = tuple[Any, ...] | None  # of elm_mlx.Tool


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
    return read_function(function.at, function.value)


def read_function(where: str, function: Mapping[str, Any]) -> Any:
    """The tool of a function's name, description and parameters, which errors call `where`. Raises FieldRefused."""
    from elm_mlx.api.tools import tool_of  # here, as it brings MLX

    try:
        return tool_of(function)
    except InvalidRequest as error:
        raise FieldRefused(where, str(error)) from error


def chosen(body: Mapping[str, Any], tools: Tools) -> tuple[Tools, str | None]:
    """The tools that an answer may call, and the choice among them as `choice_in` gives it. Raises FieldRefused."""
    wanted = body.get("tool_choice")
    if isinstance(wanted, Mapping) and wanted.get("type") == "allowed_tools":
        return allowed(wanted.get("allowed_tools"), tools)
    return tools, choice_in(body, tools)


def allowed(given: object, tools: Tools) -> tuple[Tools, str]:
    """Those of the tools that a request allows, and whether one has to be called. Raises FieldRefused."""
    where = "tool_choice.allowed_tools"
    mode, listed = (given.get("mode"), given.get("tools")) if isinstance(given, Mapping) else (None, None)
    if mode not in ("auto", "required") or not isinstance(listed, list):
        raise FieldRefused(where, f"{where} is {shown(given)}; it must be an object with a mode, auto or required, and "
                           "a list of tools.")  # fmt: skip
    names = {named(one) for one in listed}
    left = tuple(tool for tool in tools or () if tool.name in names)
    if len(left) < max(len(names), 1):
        raise FieldRefused(f"{where}.tools", f"{where}.tools must name functions that are in tools, one or more.")
    return left, str(mode)


def choice_in(body: Mapping[str, Any], tools: Tools) -> str | None:
    """Which tools an answer may or must call: "none", "auto", "required", or a name; None where nothing is said. Raises
    FieldRefused for a choice without tools, and for one of no tool."""
    wanted = body.get("tool_choice")
    if wanted is None or (wanted in ("none", "auto") and not tools):
        return None
    if not (isinstance(wanted, str) and wanted in CHOICES):
        wanted = named(wanted)
    if not tools:
        raise FieldRefused("tool_choice", f"tool_choice is {shown(wanted)}, and there are no tools. Give tools.")
    if wanted not in CHOICES and wanted not in (names := [tool.name for tool in tools]):
        raise FieldRefused("tool_choice", f"tool_choice names {shown(wanted)}; the tools are {', '.join(names):.300}.")
    return wanted


def named(wanted: object) -> str:
    """The name of the function that a tool_choice wants. Raises FieldRefused."""
    function = wanted.get("function") if isinstance(wanted, Mapping) else None
    kind = wanted.get("type", "function") if isinstance(wanted, Mapping) else None
    if kind == "function" and isinstance(function, Mapping) and isinstance(name := function.get("name"), str):
        return name
    raise FieldRefused("tool_choice", f"tool_choice is {shown(wanted)}; it must be {', '.join(CHOICES)}, or "
                       'an object as {"type": "function", "function": {"name": ...}}.')  # fmt: skip
