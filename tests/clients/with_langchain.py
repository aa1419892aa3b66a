"""langchain-openai as its users have it: `ChatOpenAI` and `OpenAI` with a `base_url`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import openai
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel
from trying import CHAT, CITIES, DEMO, LONG, URL, expected, raises, trying

ASKED = "What is the weather in Oslo?"


class Place(BaseModel):
    """A place."""

    city: Literal["Oslo", "Paris"]


def weather(city: Literal["Oslo", "Paris"]) -> str:
    """Tells the weather of a city."""
    raise AssertionError("nobody runs it")


def model(**options: Any) -> ChatOpenAI:
    usual = {"model": CHAT, "max_tokens": 8, "temperature": 0}
    return ChatOpenAI(base_url=URL, api_key="unused", max_retries=0, **(usual | options))


def plain() -> str:
    answer = model().invoke(ASKED)
    return expected(answer.usage_metadata["output_tokens"] == 8, answer.content)


def streamed() -> str:
    chunks = list(model(stream_usage=True).stream(ASKED))
    usage = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    text = "".join(chunk.content for chunk in chunks)
    return expected(text == model().invoke(ASKED).content and usage[-1]["output_tokens"] == 8, text)


def called() -> str:
    (call,) = model(max_tokens=100).bind_tools([weather], strict=True, tool_choice="required").invoke(ASKED).tool_calls
    return expected(call["args"]["city"] in CITIES, call["args"])


def called_in_pieces() -> str:
    pieces = model(max_tokens=100).bind_tools([weather], strict=True, tool_choice="weather").stream(ASKED)
    whole = next(pieces)
    for piece in pieces:
        whole = whole + piece
    return expected(whole.tool_calls[0]["args"]["city"] in CITIES, whole.tool_calls)


def formed() -> str:
    return expected(model(max_tokens=100).with_structured_output(Place).invoke(ASKED).city in CITIES, "a Place")


def completed() -> str:
    base = OpenAI(model=DEMO, base_url=URL, api_key="unused", max_tokens=8, temperature=0, max_retries=0)
    text = base.invoke("Once upon a time")
    return expected(text and text == "".join(base.stream("Once upon a time")), text)


def by_the_example() -> str:
    example = Path(__file__).parents[2] / "examples" / "langchain_chat.py"
    done = subprocess.run([sys.executable, example, URL, CHAT], capture_output=True, text=True, check=True, timeout=120)
    return expected("\nMood: " in done.stdout and not done.stderr, done.stdout[-60:].strip())


def by_responses() -> str:
    answer = model(use_responses_api=True).invoke(ASKED)
    return expected(answer.usage_metadata["output_tokens"] == 8, answer.content)


trying("chat, usage", plain)
trying("chat, streamed, usage", streamed)
trying("tool call", called)
trying("tool call, streamed", called_in_pieces)
trying("structured output", formed)
trying("completion, whole and streamed", completed)
trying("Responses", by_responses)
trying("examples/langchain_chat.py", by_the_example)
trying("a prompt too long", lambda: raises(openai.BadRequestError, lambda: model().invoke(LONG[0]["content"])))
trying("an unknown model", lambda: raises(openai.NotFoundError, lambda: model(model="none").invoke(ASKED)))
