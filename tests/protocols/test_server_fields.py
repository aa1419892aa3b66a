"""docs/server-fields.md is what the code says of the fields of requests, and all of OpenAI's are there."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from anthropic.types import MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from helpers import openai_schemas

from elm_mlx.protocols.anthropic.table import TABLE as MESSAGES
from elm_mlx.protocols.known import Known
from elm_mlx.protocols.openai.table import CHAT_FIELDS, TEXT_FIELDS
from elm_mlx.protocols.responses.table import TABLE as RESPONSES

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_fields_is_what_the_code_says() -> None:
    made = runpy.run_path(str(DOCS / "make_server_fields.py"))
    said = (DOCS / "server-fields.md").read_text(encoding="utf-8")
    assert said == made["text"](), "run: python docs/make_server_fields.py"


@pytest.mark.parametrize("known", [CHAT_FIELDS, TEXT_FIELDS, RESPONSES, MESSAGES])
def test_no_field_is_in_two_tables(known: Known) -> None:
    names = [name for table in known for name in table]
    assert len(names) == len(set(names))


@openai_schemas.NEEDED
@pytest.mark.parametrize(
    ("known", "name", "count"),
    [
        (CHAT_FIELDS, "CreateChatCompletionRequest", 37),
        (TEXT_FIELDS, "CreateCompletionRequest", 18),
        (RESPONSES, "CreateResponse", 31),
    ],
)
def test_every_field_of_openais_is_in_a_table(known: Known, name: str, count: int) -> None:
    schemas = json.loads(openai_schemas.PATH.read_text(encoding="utf-8"))["components"]["schemas"]
    fields = properties(schemas, schemas[name])
    assert len(fields) == count
    assert sorted(fields - {field for table in known for field in table}) == []


def test_every_field_of_anthropic_s_client_is_in_a_table() -> None:
    fields = {*get_type_hints(MessageCreateParamsStreaming)} | {*get_type_hints(MessageCountTokensParams)}
    assert {"messages", "stream", "thinking"} <= fields
    assert sorted(fields - {field for table in MESSAGES for field in table}) == []


def properties(schemas: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    """The fields of a schema and of those that it is made of."""
    if "$ref" in schema:
        return properties(schemas, schemas[schema["$ref"].rpartition("/")[2]])
    return set(schema.get("properties", {})).union(*(properties(schemas, one) for one in schema.get("allOf", [])))
