"""litellm as its users have it: `openai/NAME` with an `api_base`."""

from __future__ import annotations

import json
from typing import Any

import litellm
from trying import CHAT, CITIES, DEMO, LONG, PLACE, SAID, URL, expected, raises, trying

litellm.suppress_debug_info = True
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PLACE}}
FORM = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}


def ask(**options: Any) -> Any:
    usual = {"model": f"openai/{CHAT}", "messages": SAID, "max_tokens": 8, "temperature": 0}
    return litellm.completion(api_base=URL, api_key="unused", num_retries=0, **(usual | options))


def plain() -> str:
    answer = ask()
    return expected(answer.usage.completion_tokens == 8, answer.choices[0].message.content)


def streamed() -> str:
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    return expected(text == ask().choices[0].message.content and usage[-1].completion_tokens == 8, text)


def called() -> str:
    choice = ask(tools=[TOOL], tool_choice="required", max_tokens=100).choices[0]
    arguments = json.loads(choice.message.tool_calls[0].function.arguments)
    return expected(choice.finish_reason == "tool_calls" and arguments["city"] in CITIES, arguments)


def called_in_pieces() -> str:
    chunks = ask(tools=[TOOL], tool_choice="required", max_tokens=100, stream=True)
    whole = litellm.stream_chunk_builder(list(chunks), messages=SAID)
    arguments = json.loads(whole.choices[0].message.tool_calls[0].function.arguments)
    return expected(arguments["city"] in CITIES, arguments)


def formed() -> str:
    text = ask(response_format=FORM, max_tokens=100).choices[0].message.content
    return expected(json.loads(text)["city"] in CITIES, text)


def completed() -> str:
    answer = litellm.text_completion(model=f"text-completion-openai/{DEMO}", prompt="Once upon a time", max_tokens=8,
                                     api_base=URL, api_key="unused")  # fmt: skip
    return expected(answer.choices[0].text, answer.choices[0].text)


def message() -> str:
    answer = litellm.completion(model=f"anthropic/{CHAT}", messages=SAID, max_tokens=8, api_key="unused",
                                api_base=f"{URL}/messages")  # fmt: skip
    return expected(answer.usage.completion_tokens == 8, answer.choices[0].message.content)


trying("chat, usage", plain)
trying("chat, streamed, usage", streamed)
trying("tool call", called)
trying("tool call, streamed", called_in_pieces)
trying("JSON schema", formed)
trying("completion", completed)
trying("Anthropic's API", message)
trying("a prompt too long", lambda: raises(litellm.ContextWindowExceededError, lambda: ask(messages=LONG)))
trying("an unknown model", lambda: raises(litellm.NotFoundError, lambda: ask(model="openai/none")))
trying("a field without meaning", lambda: raises(litellm.BadRequestError, lambda: ask(temperature=9)))
