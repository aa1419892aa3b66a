"""The form of an answer that must call tools, in the words in which the model was trained to write calls."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elm_mlx.api.tools import Tool
from elm_mlx.arguments import shown
from elm_mlx.errors import NotEnforceable
from elm_mlx.text.grammar import JSON_OPTIONS, Form
from elm_mlx.text.marks import Marks
from elm_mlx.text.schema import check_schema
from elm_mlx.text.schema_length import fewest_bytes
from elm_mlx.text.tools.coercion import listed, types_of
from elm_mlx.text.tools.wordings import ID, ID_LENGTH, KEY

# Blanks as chat templates write them in JSON.
SEPARATORS = {"item_separator": ", ", "key_separator": ": "}
ID_RULE = f"/[a-zA-Z0-9]{{{ID_LENGTH}}}/"
NOTES = {"type", "description", "title", "default", "examples", "anyOf", "oneOf"}  # keywords that ask nothing of a text
VALUE_END = "\n</parameter>\n"
TEXT_RULE = f"/(?s:.*?){VALUE_END}/".replace("\n", "\\n").replace("</", "<\\/")


class CallForms:
    """The forms of calls that a model words as its `marks` say."""

    def __init__(self, marks: Marks) -> None:
        self._wording = marks.wording
        self._ids = {mark: token for token, mark in marks.ids.items()}
        self._pattern = re.compile("|".join(map(re.escape, [ID, *self._ids])))

    def form(self, tools: Sequence[Tool], most: int) -> Form:
        """The form of an answer that is one call of some tools, or up to `most`. Raises NotEnforceable for a schema
        that cannot be enforced."""
        words, names = self._wording, [f"call{number}" for number in range(len(tools))]
        rules = [line for name, tool in zip(names, tools, strict=True) for line in self._rules(name, tool)]
        more = f"({self._words(words.between)} call){{0,{most - 1}}}" if most > 1 else ""
        start = f"start: {self._words(words.start)} call {more} {self._words(words.stop)}"
        return Form("calls", "\n".join([start, f"call: {' | '.join(names)}", *rules]))

    def fewest_bytes(self, tools: Sequence[Tool]) -> float:
        """The fewest bytes of an answer that calls one of some tools, or fewer. Raises as `form`."""
        least = min(map(self._least, tools))
        if least == math.inf:
            raise NotEnforceable("No call of these tools can be enforced: no arguments fit their schemas.",
                                 "Correct the schemas, or give {tool_choice=auto}.")  # fmt: skip
        return least

    def _rules(self, name: str, tool: Tool) -> Iterator[str]:
        """The rules of calls of one tool, in llguidance's notation; the first has this name."""
        words = self._wording
        opening, ending = self._words(words.before + tool.name + words.middle), self._words(words.after)
        if not words.is_tagged:
            yield f"{name}: {opening} {json_rule(json.loads(schema_text(tool)))} {ending}"
            return
        values = tagged_values(tool)
        parts = [f"{name}_{number}{'' if value.is_required else '?'}" for number, value in enumerate(values)]
        yield f"{name}: {' '.join([opening, *parts, ending])}"
        for number, value in enumerate(values):
            yield from value.rules(f"{name}_{number}")

    def _words(self, text: str) -> str:
        """Words in llguidance's notation: quoted texts, the ids of tokens without a text, and what an id may be."""
        pieces, place = [], 0
        for found in self._pattern.finditer(text):
            pieces += [text[place : found.start()], found[0]]
            place = found.end()
        return " ".join(self._piece(piece) for piece in [*pieces, text[place:]] if piece)

    def _piece(self, text: str) -> str:
        return ID_RULE if text == ID else f"<[{self._ids[text]}]>" if text in self._ids else json.dumps(text)

    def _least(self, tool: Tool) -> float:
        """The fewest bytes of one call; a token without a text has none."""
        words = self._wording
        text = self._pattern.sub("", words.start + words.before + tool.name + words.middle + words.after + words.stop)
        if not words.is_tagged:
            return len(text) + fewest_bytes(schema_text(tool))
        return len(text) + sum(value.least for value in tagged_values(tool) if value.is_required)


class TaggedValue:
    """An argument that is written between tags, by its name, as its `schema` in that of all arguments asks."""

    def __init__(self, name: str, schema: object, is_required: bool) -> None:
        self.is_required = is_required
        self._opening, self._schema = f"<parameter={name}>\n", schema

    @property
    def least(self) -> int:
        """The fewest bytes that it takes."""
        return len(self._opening) + len(VALUE_END)

    def rules(self, name: str) -> Iterator[str]:
        """The rules of the value, in llguidance's notation; the first has this name. Raises NotEnforceable for texts
        with keywords that hold for JSON alone."""
        opening, ending = json.dumps(self._opening), json.dumps(VALUE_END)
        if texts := self._listed():
            yield f"{name}: {opening} ({' | '.join(map(json.dumps, texts))}) {ending}"
        elif self._is_text():
            yield f"{name}: {opening} {name}_text"
            yield f"{name}_text[lazy]: {TEXT_RULE}"
        else:
            yield f"{name}: {opening} {json_rule(json.loads(check_schema(self._schema)))} {ending}"

    def _listed(self) -> list[str]:
        """The texts that are allowed, where the schema lists some. What else it lists would be read as a text, too."""
        schema = self._schema if isinstance(self._schema, Mapping) else {}
        values = [schema["const"]] if "const" in schema else listed(schema, "enum")
        return [one for one in values if isinstance(one, str) and VALUE_END.strip() not in one]

    def _is_text(self) -> bool:
        """Whether any text is allowed. Raises NotEnforceable where only some are."""
        types = types_of(self._schema)
        if types and "string" not in types:
            return False
        texts = [one for one in texts_in(self._schema) if set(one) - NOTES]
        if texts or not types:
            what = ", ".join(sorted(set(texts[0]) - NOTES)) if texts else "no type"
            raise NotEnforceable(f"The schema of {self._opening.strip()} has {what}: this model writes the texts of "
                                 "arguments without quotes, where only a type, enum or const can be enforced.",
                                 "Leave that out, or give {tool_choice=auto}.")  # fmt: skip
        return True


def texts_in(schema: Any) -> Iterator[Mapping[str, Any]]:
    """The schemas of texts in a schema: itself, or some in its anyOf and oneOf."""
    if isinstance(schema, Mapping) and "string" in types_of(schema):
        yield schema
        for key in ("anyOf", "oneOf"):
            for one in schema.get(key, ()):
                yield from texts_in(one)


def tagged_values(tool: Tool) -> list[TaggedValue]:
    """The arguments of a tool, each to be written between tags, in the schema's order. Raises NotEnforceable."""
    schema = json.loads(schema_text(tool))
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    if strange := set(schema) - {"type", "properties", "required", "additionalProperties", *shared, *NOTES}:
        raise NotEnforceable(f"The schema of {tool.name} has {min(strange)}: this model writes arguments between tags, "
                             "where only properties and required can be enforced.",
                             "Leave that out, or give {tool_choice=auto}.")  # fmt: skip
    parts, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(required, list) or any(name not in [*parts] for name in required):
        raise NotEnforceable(f"The schema of {tool.name} requires {shown(required)}; it must be a list of names that "
                             "are among its properties.")  # fmt: skip
    if unreadable := [name for name in parts if not KEY.fullmatch(name)]:
        raise NotEnforceable(f"The schema of {tool.name} has the property {shown(unreadable[0])}: this model writes "
                             "names of arguments in tags, where one has 1 to 256 characters without <, > and line "
                             "breaks.", "Name it otherwise, or give {tool_choice=auto}.")  # fmt: skip
    return [TaggedValue(name, with_shared(part, shared), name in required) for name, part in parts.items()]


def with_shared(part: Any, shared: Mapping[str, Any]) -> Any:
    """A schema of an argument with the definitions to which it may refer."""
    return {**part, **shared} if isinstance(part, Mapping) and "$ref" in json.dumps(part) else part


def json_rule(schema: dict[str, Any]) -> str:
    """A value of JSON, in llguidance's notation."""
    return f"%json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS | SEPARATORS})}"


def schema_text(tool: Tool) -> str:
    """The schema of a tool's arguments, as it can be enforced. Raises NotEnforceable."""
    return check_schema({"type": "object", **tool.parameters})
