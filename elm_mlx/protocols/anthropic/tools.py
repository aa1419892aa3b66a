"""The tools of a request to the Messages API, and which of them the answer may call."""

from __future__ import annotations

from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.protocols.fields import Fields
from elm_mlx.protocols.openai.tools import listed_tools, read_function, together

CUSTOM = ("type", "name", "description", "input_schema", "cache_control", "strict", "input_examples",
          "allowed_callers", "defer_loading", "eager_input_streaming")  # fmt: skip
CHOICES = {"auto": "auto", "any": "required", "none": "none", "tool": "tool"}


def read_tools(body: Fields) -> tuple[Any, ...] | None:
    """The tools of a request, as elm_mlx.Tool; None where there are none. Tools of other kinds are noted as left out.
    Raises FieldRefused."""
    tools = []
    for tool in listed_tools(body):
        kind = tool.text("type") or "custom"
        if kind == "custom":
            tools.append(function_of(tool))
        else:
            tool.leftovers.add(tool.at, f"{tool.at} is a tool of type {shown(kind)}, which elm-mlx lacks.")
    return together(tools) or None


def function_of(tool: Fields) -> Any:
    """A tool as elm_mlx.Tool. Raises FieldRefused."""
    tool.check(CUSTOM)
    schema = tool.needed("input_schema").value
    function = {"name": tool.full_text("name"), "description": tool.text("description"), "parameters": schema}
    return read_function(tool, function, "input_schema")


def read_choice(choice: Fields, tools: tuple[Any, ...] | None) -> str | None:
    """A tool_choice as `LanguageModel.chat` takes it; None where there is none. Raises FieldRefused."""
    choice.check(("type", "name", "disable_parallel_tool_use"))
    if not choice.value:
        return None
    kind = CHOICES[choice.one_of("type", CHOICES) or choice.wrong("type", " or ".join(CHOICES))]
    if kind == "required" and not tools:
        choice.refuse("type", "is any, and there are no tools to call. Give one in tools.")
    if kind != "tool":
        return kind
    name = choice.full_text("name")
    if name not in [tool.name for tool in tools or ()]:
        choice.refuse("name", f"is {shown(name)}, and no tool in tools has that name.")
    return name
