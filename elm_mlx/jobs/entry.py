"""A line of the input with its id and its form, before anybody looks at what it asks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from elm_mlx.errors import InvalidRequest
from elm_mlx.jobs import openai, plain
from elm_mlx.jobs.ask import Ask, Id
from elm_mlx.jobs.json_line import parse_line
from elm_mlx.jobs.prompts import is_shape
from elm_mlx.protocols.json_object import why_not

FORMS = (plain, openai)


@dataclass(frozen=True)
class Entry:
    """A line that has something on it. `number` counts from 1. `form` is the module that reads the line and writes its
    answer. Of a line whose id cannot be read `error` says why; its number is its id, and its form the plain one."""

    number: int
    id: Id
    form: ModuleType
    fields: dict[str, Any]
    error: InvalidRequest | None = None

    @property
    def key(self) -> str:
        """The id as JSON text, by which lines and answers are matched: 1 and "1" are two."""
        return key_of(self.id)

    @property
    def is_chat(self) -> bool:
        """Whether this line, if it is in order, asks for a chat template."""
        asked = self.fields.get("body", self.fields)
        return isinstance(asked, dict) and "messages" in asked

    def read_ask(self) -> Ask:
        """What the line asks. Raises InvalidRequest, with a sentence that says what is wrong with it."""
        if self.error:
            raise self.error
        try:
            ask: Ask = self.form.read_ask(self.fields)
        except RecursionError as error:  # what could just be parsed may be too deep to be looked at
            raise InvalidRequest(f"Line {self.number} {why_not(error)}.") from error
        return ask


def read_entry(number: int, raw: bytes | None) -> Entry:
    """Reads the id of a line; `raw` is None for one that is too long."""
    try:
        fields = parse_line(raw, f"Line {number}")
        form = openai if {"custom_id", "body"} & fields.keys() else plain
        return Entry(number, form.read_id(fields, number), form, fields)
    except InvalidRequest as error:
        return Entry(number, number, plain, {}, error)


def key_of(id: Id) -> str:
    """An id as JSON text."""
    return json.dumps(id)


def key_of_result(raw: bytes | None) -> tuple[str, bool]:
    """(the key, whether it holds an error) of a line of an output. Raises InvalidRequest for one that no form
    writes."""
    record = parse_line(raw, "The line")
    for form in FORMS:
        if is_shape(tuple(record), form.SHAPES):
            return key_of(form.id_of_result(record)), record["error"] is not None
    raise InvalidRequest("The line is none that elm-mlx writes.")
