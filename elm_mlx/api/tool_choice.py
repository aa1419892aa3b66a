"""Which tools an answer may call, which it must call, and the form that then holds it to a call."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from elm_mlx.api.structure import FORMS
from elm_mlx.api.tools import Tool, tools_of
from elm_mlx.arguments import shown
from elm_mlx.engine.request import Request
from elm_mlx.errors import InvalidRequest, NotEnforceable
from elm_mlx.text.answer import Reading
from elm_mlx.text.grammar import JSON_OPTIONS, Form
from elm_mlx.text.marks import Marks
from elm_mlx.text.schema import check_schema
from elm_mlx.text.schema_length import fewest_bytes
from elm_mlx.text.tokenizer import Tokenizer

ENDING = "}"  # of a call
MOST_CALLS = 8  # of an answer that must call tools, where the template takes several
AUTO, NONE, REQUIRED = "auto", "none", "required"  # choices that name no tool
# Blanks as the templates of Llama 3.1 to 3.3 write a call.
SEPARATORS = {"item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class Choice:
    """The `tools` that an answer may call, and those of which it `must` call one, if any; unless `in_parallel`, it must
    not call several."""

    tools: tuple[Tool, ...] = ()
    must: tuple[Tool, ...] = ()
    in_parallel: bool = True

    @property
    def schemas(self) -> list[dict[str, Any]] | None:
        """The tools as a chat template is given them; None where there are none."""
        return [tool.schema for tool in self.tools] or None

    def form(self, *, takes_several: bool) -> Form | None:
        """The form of an answer that must call tools, several where the template `takes_several` calls; None where it
        need not. Raises NotEnforceable for a schema that cannot be enforced, with the reason."""
        most = MOST_CALLS if takes_several and self.in_parallel else 1
        return form_of(self.must, most) if self.must else None

    @property
    def fewest_bytes(self) -> float:
        """The fewest bytes of an answer that must call tools, or fewer. Raises as `form`."""
        least = min(len(opening_of(tool)) + fewest_bytes(schema_text(tool)) + len(ENDING) for tool in self.must)
        if least == math.inf:
            raise NotEnforceable("No call of these tools can be enforced: no arguments fit their schemas.")
        return least


def choice_of(tools: object, wanted: object, options: Mapping[str, Any]) -> Choice:
    """What a call's `tools` and its tool_choice ask for. With "none" the model is told of no tools. Raises
    InvalidRequest for what is none, for a choice without tools, and for one beside another form of the answer."""
    found = tools_of(tools)
    wanted = named_choice(wanted)
    if wanted == NONE:
        return Choice()
    if wanted != AUTO and not found:
        raise InvalidRequest(f"tool_choice is {shown(wanted)}, and there are no tools.", "Give {tools}.")
    if found and (given := [name for name in FORMS if options.get(name) is not None]):
        raise InvalidRequest(f"{given[0]} leaves the answer no room for a call of a tool.", f"Leave {{{given[0]}}} or "
                             "{tools} out, or give {tool_choice=none}.")  # fmt: skip
    if wanted in (AUTO, REQUIRED):
        return Choice(found, found if wanted == REQUIRED else ())
    if not (named := tuple(tool for tool in found if tool.name == wanted)):
        raise InvalidRequest(f"tool_choice is {shown(wanted)}; it must be auto, none, required, or the name of a tool: "
                             f"{', '.join(tool.name for tool in found)}.")  # fmt: skip
    return Choice(found, named)


def named_choice(wanted: object) -> str:
    """A tool_choice as a text: OpenAI's API has an object where it names a function. Raises InvalidRequest."""
    if isinstance(wanted, Mapping) and isinstance(wanted.get("function"), Mapping):
        wanted = wanted["function"].get("name")
    if wanted is None:
        return AUTO
    if not isinstance(wanted, str):
        raise InvalidRequest(f"tool_choice is {shown(wanted)}; it must be auto, none, required, or the name of a tool.")
    return wanted


def form_of(tools: Sequence[Tool], most: int) -> Form:
    """The form of an answer that is one call of some tools, or up to `most`, as the templates of Llama 3.1 to 3.3 write
    one: {"name": ..., "parameters": ...}. Raises NotEnforceable for a schema that cannot be enforced."""
    rules = [f"call{number}: {call_rule(tool)}" for number, tool in enumerate(tools)]
    call = f"call: {' | '.join(f'call{number}' for number in range(len(tools)))}"
    start = f'start: call ("; " call){{0,{most - 1}}}' if most > 1 else "start: call"
    return Form("lark", "\n".join([start, call, *rules]))


def call_rule(tool: Tool) -> str:
    """The rule of calls of one tool, in llguidance's notation."""
    schema = json.loads(schema_text(tool))
    opening, ending = json.dumps(opening_of(tool)), json.dumps(ENDING)
    return f"{opening} %json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS | SEPARATORS})} {ending}"


def opening_of(tool: Tool) -> str:
    """What a call of a tool begins with."""
    return f'{{"name": "{tool.name}", "parameters": '


def schema_text(tool: Tool) -> str:
    """The schema of a tool's arguments, as it can be enforced. Raises NotEnforceable."""
    return check_schema({"type": "object", **tool.parameters})


def reading_of(request: Request, marks: Marks, tokenizer: Tokenizer, choice: Choice | None) -> Reading | None:
    """How the answer to a request is cut into parts; None where it can have none but text. An answer with a form has no
    reasoning. The ids of its calls are made of prompt and seed: they are new ones each time where there is no seed."""
    tools = choice.tools if choice else ()
    if request.constraint:
        marks = Marks()
    if not tools:
        return Reading(marks, marks.is_reasoning_after(request.prompt, tokenizer)) if marks.begin else None
    known = f"{request.seed}/{request.prompt}"
    key = secrets.token_hex(16) if request.seed is None else sha256(known.encode()).hexdigest()
    schemas = {tool.name: tool.parameters for tool in tools}
    return Reading(marks, marks.is_reasoning_after(request.prompt, tokenizer), schemas, key)
