"""The form that an answer must have: OpenAI's response_format, and the names that vLLM and llama.cpp have for more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.protocols.openai.values import object_in
from elm_mlx.protocols.refusal import FieldRefused

# field -> the option that it means
OTHERS = {"guided_json": "schema", "guided_regex": "regex", "guided_choice": "choices", "guided_grammar": "grammar",
          "json_schema": "schema"}  # fmt: skip
STRUCTURED = {"json": "schema", "regex": "regex", "choice": "choices", "grammar": "grammar"}  # in structured_outputs
FORMATS = ("text", "json_object", "json_schema")


def form_in(body: Mapping[str, Any]) -> dict[str, Any]:
    """The option that gives the answer a form, if a request asks for one. Raises FieldRefused for what is no form, and
    for two of them; whether it can be enforced is judged later."""
    found = [(name, {option: body[name]}) for name, option in OTHERS.items() if body.get(name) is not None]
    if form := format_in(body):
        found.append(("response_format", form))
    found += [("structured_outputs", {option: value}) for option, value in structured_in(body)]
    if len(found) > 1:
        names = " and ".join(dict.fromkeys(name for name, _ in found))
        raise FieldRefused(found[1][0], f"{names} give more than one form to the answer, which has only one. Leave the "
                           "others out.")  # fmt: skip
    return found[0][1] if found else {}


def format_in(body: Mapping[str, Any]) -> dict[str, Any]:
    """The option that a response_format means; none for plain text."""
    given = object_in(body, "response_format")
    kind = given.get("type", "text")
    if kind not in FORMATS:
        raise FieldRefused("response_format.type", f"response_format.type is {shown(kind)}; it must be one of "
                           f"{', '.join(FORMATS)}.")  # fmt: skip
    if kind == "json_object":
        schema = given.get("schema")  # as llama.cpp and others have it
        return {"response_format": {"type": kind}} if schema is None else {"schema": schema}
    return {"schema": schema_in(given)} if kind == "json_schema" else {}


def schema_in(given: Mapping[str, Any]) -> Any:
    """The schema of a response_format."""
    where = "response_format.json_schema"
    inner = given.get("json_schema")
    if not isinstance(inner, Mapping) or inner.get("schema") is None:
        raise FieldRefused(f"{where}.schema", f"{where} has no schema. Give it one.", "missing_required_parameter")
    if not isinstance(inner["schema"], Mapping | bool):
        raise FieldRefused(f"{where}.schema", f"{where}.schema is {shown(inner['schema'])}; it must be an object.")
    return inner["schema"]


def structured_in(body: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(option, value) of what vLLM's structured_outputs asks for."""
    given = {name: value for name, value in object_in(body, "structured_outputs").items() if value is not None}
    for name in given:
        if name not in STRUCTURED:
            where = f"structured_outputs.{name:.64}"
            raise FieldRefused(where, f"{where} is not something that elm-mlx knows; it knows {', '.join(STRUCTURED)}.",
                               "unsupported_parameter")  # fmt: skip
    return [(STRUCTURED[name], value) for name, value in given.items()]
