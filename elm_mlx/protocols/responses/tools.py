"""The tools of a request to the Responses API, and which of them the answer may call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from elm_mlx.arguments import shown
from elm_mlx.protocols.fields import Fields
from elm_mlx.protocols.openai.tools import listed_tools, read_function, together

CHOICES = ("auto", "none", "required")
MODES = ("auto", "required")  # of tools that are allowed
FUNCTION = ("type", "name", "description", "parameters", "strict", "output_schema", "allowed_callers", "defer_loading")


class Tools(NamedTuple):
    """Tools, as elm_mlx.Tool, or None, and the choice as `LanguageModel.chat` takes it."""

    tools: tuple[Any, ...] | None
    choice: str | None


def read_tools(body: Fields) -> Tools:
    """The functions of a request, and its tool_choice. Tools of other kinds are noted as left out. Raises
    FieldRefused."""
    tools = []
    for tool in listed_tools(body):
        kind = tool.full_text("type")
        if kind == "function":
            tools.append(function_of(tool))
        else:
            tool.leftovers.add(tool.at, f"{tool.at} is a tool of type {shown(kind)}, which elm-mlx lacks.")
    return chosen(body, together(tools))


def function_of(tool: Fields) -> Any:
    """A function as elm_mlx.Tool. Raises FieldRefused."""
    tool.check(FUNCTION)
    tool.flag("strict")
    tool.full_text("name")
    tool.inner("parameters")
    return read_function(tool.at, {name: tool.get(name) for name in ("name", "description", "parameters")})


def chosen(body: Fields, tools: tuple[Any, ...]) -> Tools:
    """The tools that a tool_choice leaves, and the choice among them. Raises FieldRefused."""
    if isinstance(body.get("tool_choice"), Mapping):
        inner = body.inner("tool_choice")
        inner.check(("type", "name", "mode", "tools"))
        if inner.get("type") == "allowed_tools":
            return allowed(inner, tools)
        return Tools(tools, named(inner, tools))
    choice = body.one_of("tool_choice", CHOICES)
    if choice == "required" and not tools:
        body.refuse("tool_choice", "is required, and there are no functions to call. Give one in tools.")
    return Tools(tools or None, choice)


def allowed(choice: Fields, tools: tuple[Any, ...]) -> Tools:
    """The tools that are allowed, and whether one has to be called."""
    names = {named(one, tools) for one in choice.objects("tools")}
    if not names:
        choice.wrong("tools", "a list of one function or more")
    left = tuple(tool for tool in tools if tool.name in names)
    return Tools(left, choice.one_of("mode", MODES) or choice.wrong("mode", " or ".join(MODES)))


def named(choice: Fields, tools: tuple[Any, ...]) -> str:
    """The name of the function that a choice names. Raises FieldRefused for a tool of another kind, and for one that is
    not among the tools."""
    if choice.get("type") != "function":
        choice.wrong("type", "function: elm-mlx has no other tools")
    name = choice.full_text("name")
    if name not in [tool.name for tool in tools]:
        choice.refuse("name", f"is {shown(name)}, and no function in tools has that name.")
    return name
