"""A server with two models whose answers a test writes: one that talks and calls a tool, one that reasons first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pydantic
from helpers import chat_templates, scripts
from helpers.live_app import LiveApp, living_app

MODEL, REASONER = "talker", "reasoner"
TEMPLATE = (
    "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: <think>\\n' }}{% endif %}{# ends with </think> #}"
)
CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = '{{"name": "weather", "parameters": {{"city": "{}"}}}}'


class Weather(pydantic.BaseModel):
    city: Literal["Oslo", "Paris"]


@contextmanager
def two_talkers(folder: Path) -> Iterator[LiveApp]:
    """The server, with its models in a folder."""
    talker = scripts.write(folder / MODEL, chat_templates.LLAMA_31)
    with living_app(talker, scripts.write(folder / REASONER, TEMPLATE)) as app:
        yield app
