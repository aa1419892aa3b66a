"""OpenAI's own schemas of what its API answers, where they lie beside the checkout (openai/openai-openapi, MIT)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing

PATH = Path(__file__).parents[3] / "shared" / "data" / "openai-schemas.json"
NEEDED = pytest.mark.skipif(not PATH.is_file(), reason=f"OpenAI's schemas do not lie in {PATH}")
PLACE = "openai:/schemas"


def check(value: Any, name: str) -> None:
    """Raises AssertionError, with the reason, where a value does not have the form of this name."""
    error = jsonschema.exceptions.best_match(validator(name).iter_errors(value))
    assert error is None, f"{error.json_path}: {error.message}\nin {json.dumps(value)}"


@cache
def validator(name: str) -> Any:
    """What judges values by one of the schemas."""
    schema = {"$ref": f"{PLACE}#/components/schemas/{name}"}
    return jsonschema.Draft202012Validator(schema, registry=registry())


@cache
def registry() -> Any:
    """All schemas, for references among them."""
    schemas = in_2020_12(json.loads(PATH.read_text(encoding="utf-8")))
    resource = referencing.Resource(schemas, referencing.jsonschema.DRAFT202012)
    return referencing.Registry().with_resource(PLACE, resource)


def in_2020_12(schema: Any) -> Any:
    """A schema of OpenAPI as one of draft 2020-12, which knows neither `nullable` nor `discriminator`."""
    if isinstance(schema, list):
        return [in_2020_12(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: in_2020_12(part) for key, part in schema.items() if key not in ("nullable", "discriminator")}
    return {"anyOf": [kept, {"type": "null"}]} if schema.get("nullable") is True else kept
