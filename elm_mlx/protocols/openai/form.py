"""The form that an answer must have: OpenAI's response_format, and the names that vLLM and llama.cpp have for more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.protocols.fields import Fields
from elm_mlx.protocols.refusal import FieldRefused

# field -> the option that it means
OTHERS = {"guided_json": "schema", "guided_regex": "regex", "guided_choice": "choices", "guided_grammar": "grammar",
          "json_schema": "schema"}  # fmt: skip
STRUCTURED = {"json": "schema", "regex": "regex", "choice": "choices", "grammar": "grammar"}  # in structured_outputs
FORMATS = ("text", "json_object", "json_schema")


def form_in(body: Fields) -> dict[str, Any]:
    """The option that gives the answer a form, if a request asks for one. Raises FieldRefused for what is no form, and
    for two of them; whether it can be enforced is judged later."""
    found = [(name, {option: body.get(name)}) for name, option in OTHERS.items() if body.get(name) is not None]
    if form := format_in(body.inner("response_format")):
        found.append(("response_format", form))
    found += [("structured_outputs", one) for one in structured_in(body.inner("structured_outputs"))]
    if len(found) > 1:
        names = " and ".join(dict.fromkeys(name for name, _ in found))
        raise FieldRefused(found[1][0], f"{names} give more than one form to the answer, which has only one. Leave the "
                           "others out.")  # fmt: skip
    return found[0][1] if found else {}


def format_in(given: Fields) -> dict[str, Any]:
    """The option that a response_format means; none for plain text. Raises FieldRefused."""
    given.check(("type", "json_schema", "schema"))
    kind = given.one_of("type", FORMATS)
    if kind is None and given.value:
        given.wrong("type", " or ".join(FORMATS))
    if kind == "json_object":
        schema = given.get("schema")  # as llama.cpp and others have it
        return {"response_format": {"type": kind}} if schema is None else {"schema": schema}
    return {"schema": schema_in(given.inner("json_schema"))} if kind == "json_schema" else {}


def schema_in(given: Fields) -> Any:
    """The schema in the json_schema of a response_format. Raises FieldRefused."""
    given.check(("name", "description", "schema", "strict"))
    schema = given.get("schema")
    return schema if isinstance(schema, Mapping | bool) else given.wrong("schema", "an object")


def structured_in(given: Fields) -> list[dict[str, Any]]:
    """The options that vLLM's structured_outputs means. Raises FieldRefused."""
    asked = {name: value for name, value in given.value.items() if value is not None}
    for name in asked:
        if name not in STRUCTURED:
            known = ", ".join(STRUCTURED)
            given.refuse(name, f"is not something that elm-mlx knows; it knows {known}.", "unsupported_parameter")
    return [{STRUCTURED[name]: value} for name, value in asked.items()]
