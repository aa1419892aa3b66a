"""A model as llm knows it, for plain programs and for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llm
from llm.parts import StreamEvent
from pydantic import Field

from elm_mlx.errors import ElmError
from elm_mlx.llm_plugin.asking import Asked
from elm_mlx.llm_plugin.shelf import takes_forms, takes_tools


class Options(llm.Options):
    """What may follow `-o`; what is not given is the model's own choice. Their values are judged when the model is
    asked."""

    max_tokens: int | None = Field(None, description="The most tokens of an answer")
    temperature: float | None = Field(None, description="0 takes the likeliest token each time")
    top_p: float | None = Field(None, description="Only the likeliest tokens that have this probability together")
    top_k: int | None = Field(None, description="Only this many of the likeliest tokens")
    min_p: float | None = Field(None, description="Only tokens that have this share of the likeliest one's probability")
    repetition_penalty: float | None = Field(None, description="Above 1 makes repetitions less likely")
    presence_penalty: float | None = Field(None, description="Taken from tokens that the answer has")
    frequency_penalty: float | None = Field(None, description="The same, as often as it has them")
    seed: int | None = Field(None, description="Any whole number; the same one gives the same answer")
    stop: str | list[str] | None = Field(None, description="A text that ends the answer where it comes")
    window: int | None = Field(None, description="How many of the last tokens are seen; all others are forgotten")
    kv_bits: int | str | None = Field(None, description="8, k8v4 or 4: less memory for what was read")
    lookup: bool | None = Field(None, description="For answers that copy from their prompt: the same, and sooner")


class Shared:
    """What both kinds have in common."""

    can_stream = True
    Options = Options

    def __init__(self, name: str, directory: Path) -> None:
        """A model by its name in elm-mlx, in a directory, which is not read yet."""
        self.model_id, self.directory = f"elm-mlx/{name}", directory

    @property
    def supports_schema(self) -> bool:
        """Whether an answer can be held to a schema."""
        return takes_forms()

    @property
    def supports_tools(self) -> bool:
        """Whether the model is told of tools."""
        return takes_tools(self.directory)

    def __str__(self) -> str:
        return f"elm-mlx: {self.model_id}"


class ElmModel(Shared, llm.Model):
    """A model for plain programs, and for the command."""

    def execute(self, prompt: llm.Prompt, stream: bool, response: Any, conversation: Any) -> Iterator[StreamEvent]:
        """The answer, as it comes; leaving it cancels it. Raises llm.ModelError with a sentence."""
        with as_sentences():
            asked = Asked(self.directory, prompt, response)
            with asked.stream as pieces:
                for piece in pieces:
                    yield from asked.events(piece)
                asked.end()


class AsyncElmModel(Shared, llm.AsyncModel):
    """A model for asyncio."""

    async def execute(
        self, prompt: llm.Prompt, stream: bool, response: Any, conversation: Any
    ) -> AsyncGenerator[StreamEvent, None]:
        """The answer as `ElmModel` gives it. Loading, and a form's compiling, block no event loop."""
        with as_sentences():
            asked = await asyncio.to_thread(Asked, self.directory, prompt, response)
            with asked.stream as pieces:
                async for piece in pieces:
                    for event in asked.events(piece):
                        yield event
                asked.end()


@contextmanager
def as_sentences() -> Iterator[None]:
    """Raises our errors as llm's, which the command shows without a traceback."""
    try:
        yield
    except ElmError as error:
        raise llm.ModelError(str(error)) from error
