"""The tools of a request to the Responses API, and which of them the answer may call."""

from __future__ import annotations

from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.protocols.fields import Fields
from elm_mlx.protocols.openai.tools import Chosen, chosen, listed_tools, read_function, together

FUNCTION = ("type", "name", "description", "parameters", "strict", "output_schema", "allowed_callers", "defer_loading")


def read_tools(body: Fields) -> Chosen:
    """The functions of a request, and its tool_choice. Tools of other kinds are noted as left out. Raises
    FieldRefused."""
    tools = []
    for tool in listed_tools(body):
        kind = tool.full_text("type")
        if kind == "function":
            tools.append(function_of(tool))
        else:
            tool.leftovers.add(tool.at, f"{tool.at} is a tool of type {shown(kind)}, which elm-mlx lacks.")
    return chosen(body, together(tools) or None, lambda choice, name: choice)


def function_of(tool: Fields) -> Any:
    """A function as elm_mlx.Tool. Raises FieldRefused."""
    tool.check(FUNCTION)
    tool.flag("strict")
    tool.full_text("name")
    tool.inner("parameters")
    return read_function(tool, {name: tool.get(name) for name in ("name", "description", "parameters")})
