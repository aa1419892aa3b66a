"""Which tools an answer may call, which it must call, and the form that then holds it to a call."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from elm_mlx.api.call_forms import CallForms
from elm_mlx.api.structure import FORMS, Asked
from elm_mlx.api.tools import Tool, tools_of
from elm_mlx.arguments import shown
from elm_mlx.engine.request import Request
from elm_mlx.errors import InvalidRequest
from elm_mlx.text.answer import Reading
from elm_mlx.text.marks import Marks
from elm_mlx.text.tokenizer import Tokenizer

MOST_CALLS = 8  # of an answer that must call tools, where the template takes several
AUTO, NONE, REQUIRED = "auto", "none", "required"  # choices that name no tool


@dataclass(frozen=True)
class Choice:
    """The `tools` that an answer may call, and those of which it `must` call one, if any; unless `in_parallel`, it
    cannot call several."""

    tools: tuple[Tool, ...] = ()
    must: tuple[Tool, ...] = ()
    in_parallel: bool = True

    @property
    def schemas(self) -> list[dict[str, Any]] | None:
        """The tools as a chat template is given them; None where there are none."""
        return [tool.schema for tool in self.tools] or None

    def asked(self, marks: Marks, *, takes_several: bool) -> Asked:
        """The form of an answer that must call tools, worded as the model's `marks` say, several where the template
        `takes_several` calls. Raises NotEnforceable for a schema that cannot be enforced, with the reason."""
        forms = CallForms(marks)
        form = forms.form(self.must, MOST_CALLS if takes_several and self.in_parallel else 1)
        return Asked(form, None, forms.fewest_bytes(self.must), "A call of these tools")


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


def reading_of(request: Request, marks: Marks, tokenizer: Tokenizer, choice: Choice | None) -> Reading | None:
    """How the answer to a request is cut into parts; None where it can have none but text. An answer with a form has no
    reasoning. The ids of its calls are made of prompt and seed: they are new ones each time where there is no seed."""
    if request.constraint:
        marks = marks.of_calls
    if not (choice and choice.tools):
        return Reading(marks, marks.is_reasoning_after(request.prompt, tokenizer)) if marks.begin else None
    known = f"{request.seed}/{request.prompt}"
    key = secrets.token_hex(16) if request.seed is None else sha256(known.encode()).hexdigest()
    schemas = {tool.name: tool.parameters for tool in choice.tools}
    is_reasoning = marks.is_reasoning_after(request.prompt, tokenizer)
    return Reading(marks, is_reasoning, schemas, key, one_call=not choice.in_parallel)
