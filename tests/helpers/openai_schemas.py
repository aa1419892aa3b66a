"""OpenAI's own schemas of what its API answers, where a cut of them lies beside the checkout (github.com/openai/
openai-openapi, MIT)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT202012

FILE = Path(__file__).parents[3] / "shared" / "data" / "openai-schemas.json"
NEEDED = pytest.mark.skipif(not FILE.is_file(), reason=f"OpenAI's schemas do not lie in {FILE}")


def check(name: str, value: Any) -> None:
    """Fails where a value does not have the schema of this name."""
    validator(name).validate(value)


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"openai#/components/schemas/{name}"}, registry=registry())


@cache
def registry() -> Any:
    document = plain(json.loads(FILE.read_text(encoding="utf-8")))
    return Registry().with_resource("openai", DRAFT202012.create_resource(document))


def plain(value: Any) -> Any:
    """OpenAPI's schemas as JSON schemas: `nullable` is a type of theirs, and `discriminator` a hint."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {name: plain(one) for name, one in value.items() if name not in ("discriminator", "nullable")}
    return {"anyOf": [made, {"type": "null"}]} if value.get("nullable") is True else made
