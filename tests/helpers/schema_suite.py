"""JSON-Schema-Test-Suite, draft 2020-12, where it lies beside the checkout (github.com/json-schema-org, MIT)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SUITE = Path(__file__).parents[3] / "shared" / "data" / "json-schema-tests" / "tests" / "draft2020-12"
NEEDED = pytest.mark.skipif(not SUITE.is_dir(), reason=f"JSON-Schema-Test-Suite does not lie in {SUITE}")
# What formats take that they should not: they are shapes, as docs/structure.md says.
SHAPES = frozenset(("optional/format/date-time", "optional/format/date", "optional/format/time",
                    "optional/format/hostname", "optional/ecmascript-regex"))  # fmt: skip


class Case(NamedTuple):
    """A schema of the suite: its subject (a file's name), what it is about, and (value, whether it is valid) pairs."""

    subject: str
    about: str
    schema: Any
    values: list[tuple[Any, bool]]


def cases() -> Iterator[Case]:
    """All schemas of the suite."""
    for path in sorted(SUITE.rglob("*.json")):
        subject = str(path.relative_to(SUITE).with_suffix(""))
        for one in json.loads(path.read_text(encoding="utf-8")):
            values = [(test["data"], test["valid"]) for test in one["tests"]]
            yield Case(subject, one["description"], one["schema"], values)
