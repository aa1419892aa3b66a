"""The items of a request's input become the messages that chat templates read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.protocols.fields import Fields
from elm_mlx.protocols.openai.messages import read_arguments

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}  # part -> where its text is
NAMELESS = ("type", "id", "status")  # what every item may have, and says nothing to a model
MESSAGE = (*NAMELESS, "role", "content", "phase")
PART = ("type", "text", "refusal", "annotations", "logprobs", "prompt_cache_breakpoint")
REASONING = (*NAMELESS, "summary", "content", "encrypted_content")
CALL = (*NAMELESS, "call_id", "name", "arguments", "input", "caller", "namespace")
OUTPUT = (*NAMELESS, "call_id", "output", "name", "caller")


class Turns:
    """Takes items one after the other. `messages` is what they say: calls that follow a message of the model's, or
    reasoning, belong to one message with these."""

    def __init__(self, instructions: str | None = None) -> None:
        self.messages: list[dict[str, Any]] = []
        self._reasoning: list[str] = []
        if instructions is not None:
            self.messages.append({"role": "system", "content": instructions})

    def add(self, item: Fields) -> None:
        """Takes one item; one of another kind is noted as left out. Raises FieldRefused."""
        kind = item.text("type") or "message"
        if reader := READERS.get(kind):
            reader(self, item)
        elif kind == "item_reference":
            item.refuse("type", "is item_reference. Nothing is stored, so there is nothing to refer to. Send the item.")
        else:
            item.leftovers.add(item.at, f"{item.at} is an item of type {shown(kind)}, which elm-mlx does not know.")

    def _message(self, item: Fields) -> None:
        item.check(MESSAGE)
        role = ROLES[item.one_of("role", ROLES) or item.wrong("role", " or ".join(ROLES))]
        text = text_of(item, "content")
        if role == "assistant":
            self._answer()["content"] = text
        elif role == "system" and self.messages and all(one["role"] == "system" for one in self.messages):
            # Some templates refuse a second system message.
            self.messages[-1]["content"] += f"\n\n{text}"
        else:
            self._say({"role": role, "content": text})

    def _reason(self, item: Fields) -> None:
        """Keeps reasoning for the message that follows. What is encrypted nobody can read."""
        item.check(REASONING)
        for part in item.objects("content"):
            self._reasoning.append(part.text("text") or "")

    def _call(self, item: Fields) -> None:
        item.check(CALL)
        given = {"input": item.text("input") or ""} if "input" in item.value else item.get("arguments")
        arguments = read_arguments(item.path("arguments"), given)
        function = {"name": item.full_text("name"), "arguments": arguments}
        call = {"id": item.full_text("call_id"), "type": "function", "function": function}
        last = self.messages[-1] if self.messages and not self._reasoning else {}
        message = last if last.get("role") == "assistant" else self._answer()
        message.setdefault("tool_calls", []).append(call)

    def _output(self, item: Fields) -> None:
        item.check(OUTPUT)
        content = text_of(item, "output")
        self._say({"role": "tool", "tool_call_id": item.full_text("call_id"), "content": content})

    def _answer(self) -> dict[str, Any]:
        """A new message of the model's, with the reasoning before it."""
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        self._say(message)
        return message

    def _say(self, message: dict[str, Any]) -> None:
        self._reasoning.clear()
        self.messages.append(message)


READERS: dict[str, Callable[[Turns, Fields], None]] = {
    "message": Turns._message,
    "reasoning": Turns._reason,
    "function_call": Turns._call,
    "custom_tool_call": Turns._call,
    "function_call_output": Turns._output,
    "custom_tool_call_output": Turns._output,
}


def read_input(body: Fields) -> list[dict[str, Any]]:
    """The messages of a request's instructions and input. Raises FieldRefused."""
    turns = Turns(body.text("instructions"))
    given = body.get("input")
    if isinstance(given, str):
        return [*turns.messages, {"role": "user", "content": body.text("input")}]
    if not given:
        body.wrong("input", "a text, or a list of one item or more")
    for item in body.objects("input"):
        turns.add(item)
    if not turns.messages:
        body.refuse("input", "has nothing that elm-mlx can give to a model.")
    return turns.messages


def text_of(item: Fields, name: str) -> str:
    """A content: a text, or a list of parts that are texts, joined. Raises FieldRefused for anything else."""
    if isinstance(item.get(name), str):
        return item.text(name) or ""
    if item.get(name) is None:
        item.wrong(name, "a text or a list of parts")
    return "".join(map(text_of_part, item.objects(name)))


def text_of_part(part: Fields) -> str:
    """The text of one part. Raises FieldRefused for images, sounds and files."""
    kind = part.full_text("type")
    if kind not in TEXTS:
        part.refuse_kind(kind)
    part.check(PART)
    return part.text(TEXTS[kind]) or ""
