"""What a request to the Messages API asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from elm_mlx.protocols.anthropic.table import TABLE
from elm_mlx.protocols.anthropic.tools import read_choice, read_tools
from elm_mlx.protocols.anthropic.turns import read_messages
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.fields import Fields, fields_of
from elm_mlx.protocols.openai.options import model_in, sampling_in

HOTTEST = 1  # the highest temperature that Anthropic takes
THINKING = ("enabled", "disabled", "adaptive", "between_tools")


def read(body: Mapping[str, Any], *, strict: bool = False) -> Ask:
    """What a request asks. Raises FieldRefused, with a sentence that names the field; where `strict`, for a field, a
    tool or a block that elm-mlx does not know, too."""
    fields = fields_of(body, TABLE, strict=strict)
    most = fields.whole("max_tokens", 1) or fields.wrong("max_tokens", "a whole number above 0")
    return ask_of(fields, most)


def read_count(body: Mapping[str, Any], *, strict: bool = False) -> Ask:
    """What a request to count_tokens is about: its prompt, which shows no tools that may not be called. Raises as
    `read`."""
    ask = ask_of(fields_of(body, TABLE, strict=strict), None)
    return replace(ask, tools=None) if ask.tool_choice == "none" else ask


def ask_of(fields: Fields, max_tokens: int | None) -> Ask:
    """What the fields of a request ask. Raises FieldRefused."""
    tools, choice = read_tools(fields), fields.inner("tool_choice")
    messages = read_messages(fields)
    check_thinking(fields.inner("thinking"))
    return Ask(
        model_in(fields.value),
        messages=messages,
        max_tokens=max_tokens,
        options=sampled(fields) | stops_in(fields) | form_in(fields),
        tools=tools,
        tool_choice=read_choice(choice, tools),
        streamed=fields.flag("stream") is True,
        calls_in_parallel=choice.flag("disable_parallel_tool_use") is not True,
        goes_on=goes_on(fields, messages),
        ignored=tuple(fields.leftovers.names),
    )


def check_thinking(thinking: Fields) -> None:
    """Raises FieldRefused for a `thinking` that is none; its budget has no effect."""
    thinking.check(("type", "budget_tokens", "display"))
    if thinking.value:
        thinking.one_of("type", THINKING) or thinking.wrong("type", " or ".join(THINKING))
    thinking.whole("budget_tokens", 0)


def goes_on(fields: Fields, messages: list[dict[str, Any]]) -> bool:
    """Whether the last message is the beginning of the answer. Raises FieldRefused for a call without its result."""
    last = messages[-1] if messages else {}
    if last.get("tool_calls"):
        fields.refuse("messages", "ends with a tool_use. Give its tool_result.")
    return last.get("role") == "assistant"


def sampled(fields: Fields) -> dict[str, Any]:
    """The options of sampling. Raises FieldRefused."""
    fields.number("temperature", 0, HOTTEST)
    return sampling_in({name: value for name, value in fields.value.items() if name in TABLE.enforced})


def stops_in(fields: Fields) -> dict[str, Any]:
    """The option `stop`, if a request has it."""
    stops = fields.texts("stop_sequences")
    return {"stop": stops} if stops else {}


def form_in(fields: Fields) -> dict[str, Any]:
    """The option `response_format`, if the answer is to have a form. The schema itself is judged later."""
    config = fields.inner("output_config")
    config.check(("effort", "format"))
    wanted = config.inner("format") if config.get("format") is not None else fields.inner("output_format")
    if not wanted.value:
        return {}
    wanted.check(("type", "schema"))
    kind = wanted.one_of("type", ("json_schema",)) or wanted.wrong("type", "json_schema")
    return {"response_format": {"type": kind, kind: {"name": "answer", "schema": wanted.needed("schema").value}}}
