"""Lets a model call functions, and answers with their results. Needs the extra `structure`.

python examples/tools.py [MODEL]

`lm.session(tools=[weather])` does all of this by itself; here every step is in the open. The demo was not made for
tools: it gets a template that shows them, and must call one. What it says afterwards means nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import elm_mlx


def weather(city: Literal["Oslo", "Paris", "Rome"]) -> str:
    """Tells the weather in a city now."""
    return f"It rains in {city}."


TOOLS = {"weather": weather}


def run(call: elm_mlx.ToolCall) -> str:
    """The result of a call, or what is wrong with it: name and arguments are the model's, so both are judged."""
    if call.name not in TOOLS:
        return f"Error: there is no tool {call.name}."
    wrong = elm_mlx.tool_of(TOOLS[call.name]).check(call.arguments)
    return f"Error: {wrong}" if wrong else TOOLS[call.name](**call.arguments)


def main(model: str | None = None) -> None:
    with elm_mlx.load(model) as lm:
        if model is None:
            lm.use_chat_template(Path(__file__).with_name("tools.jinja"))
        messages: list[dict[str, Any]] = [{"role": "user", "content": "How is the weather in Rome?"}]
        done = lm.chat(messages, tools=TOOLS.values(), tool_choice="auto" if model else "required")
        for _ in range(4):  # rounds at most: a model may go on calling
            if not done.tool_calls:
                break
            messages.append({"role": "assistant", "content": done.text, "tool_calls": done.tool_calls})
            for call in done.tool_calls:
                print(f"{call.name}({call.arguments}):", result := run(call))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            done = lm.chat(messages, max_tokens=32, tools=TOOLS.values())
        print("Answer:", done.text)


if __name__ == "__main__":
    main(*sys.argv[1:])
