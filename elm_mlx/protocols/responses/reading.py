"""What a request to the Responses API asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.fields import Fields, fields_of
from elm_mlx.protocols.openai.options import model_in, sampling_in
from elm_mlx.protocols.responses.response import FORMAT
from elm_mlx.protocols.responses.table import TABLE
from elm_mlx.protocols.responses.tools import read_tools
from elm_mlx.protocols.responses.turns import read_input

WITH_LOGPROBS = "message.output_text.logprobs"
# What an answer could have besides, at OpenAI's, and never has here.
NEVER_THERE = (
    "reasoning.encrypted_content", "web_search_call.results", "web_search_call.action.sources",
    "code_interpreter_call.outputs", "computer_call_output.output.image_url", "file_search_call.results",
    "message.input_image.image_url",
)  # fmt: skip
FORMATS = ("text", "json_object", "json_schema")
MOST_METADATA = 16


def read(body: Mapping[str, Any], *, strict: bool = False) -> Ask:
    """What a request asks. Raises FieldRefused, with a sentence that names the field; where `strict`, for a field, a
    tool or an item that elm-mlx does not know, too."""
    fields = fields_of(body, TABLE, strict=strict)
    check_metadata(fields)
    tools, choice = read_tools(fields)
    return Ask(
        model_in(body),
        messages=read_input(fields),
        max_tokens=fields.whole("max_output_tokens", 1),
        options=sampling_in(body) | logprobs_in(fields) | form_in(fields),
        tools=tools,
        tool_choice=choice,
        streamed=fields.flag("stream") is True,
        calls_in_parallel=fields.flag("parallel_tool_calls") is not False,
        ignored=tuple(fields.leftovers.names),
    )


def logprobs_in(body: Fields) -> dict[str, Any]:
    """The option `logprobs`, if a request asks for it in either way."""
    wanted = False
    for place, one in enumerate(body.listed("include")):
        if not isinstance(one, str):
            body.refuse(f"include[{place}]", f"is {shown(one)}; it must be a text.")
        wanted |= one == WITH_LOGPROBS
        if one not in (WITH_LOGPROBS, *NEVER_THERE):
            body.leftovers.add(f"include[{place}]", f"include has {shown(one)}, which elm-mlx does not know.")
    most = body.whole("top_logprobs", 0, 20)
    return {"logprobs": most or 0} if wanted or most else {}


def form_in(body: Fields) -> dict[str, Any]:
    """The option `response_format`, if the text is to have a form. The schema itself is judged later."""
    text = body.inner("text")
    text.check(("format", "verbosity"))
    text.one_of("verbosity", ("low", "medium", "high"))
    wanted = text.inner("format")
    wanted.check(FORMAT)
    wanted.text("description")
    wanted.flag("strict")
    kind = wanted.one_of("type", FORMATS)
    if kind is None and wanted.value:
        wanted.wrong("type", " or ".join(FORMATS))
    if kind in (None, "text"):
        return {}
    if kind == "json_object":
        return {"response_format": {"type": kind}}
    inner = {"name": wanted.full_text("name"), "schema": wanted.needed("schema").value}
    return {"response_format": {"type": kind, kind: inner}}


def check_metadata(body: Fields) -> None:
    """Raises FieldRefused for metadata that is none: up to 16 texts by names."""
    given = body.inner("metadata")
    if len(given.value) > MOST_METADATA:
        body.refuse("metadata", f"has {len(given.value)} names; it may have {MOST_METADATA}.")
    for name in given.value:
        given.text(name)
