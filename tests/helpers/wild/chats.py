"""Random conversations: what people write, and what some try."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

PIECES = (
    "Hello", "hello world", " ", "  ", "\n", "\n\n", "\t", "What is the weather in Zürich today?", "It's 18 degrees",
    "naïve café", "e\u0301te\u0301", "日本語の文章です。", "你好,世界", "Привет", "👩‍👩‍👧", "🙂", "\u00a0", "ﬁne Å Ａ１²", "\u200b",
    "1234567890", "def f(x):\n    return x", "a < b > c", "<b>bold</b>", "{{ x }}", "{% if %}", "don't", "user",
    "assistant", "system", "▁", "tool: [1, 2] / 3 | 4", "\\n", '"quoted"', "Ünï", "한국어", "עברית", "\u202e", "\r\n",
    "\U000f0001", "...", "a", ".", "<0x41>", "Ġ", "<|nothing|>", "<", "|",
)  # fmt: skip
TOOL = {
    "type": "function",
    "function": {
        "name": "forecast",
        "description": "The sky at a place <now> & 'here'; naïve, 天気",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PLAIN, ORDINARY, SOFT, CONTROL = "plain", "ordinary", "soft", "control"


@dataclass(frozen=True)
class Chat:
    """What one calls a template with. `kind` says what its texts hold beside words: nothing (PLAIN), added tokens that
    are no control (ORDINARY), tokens that set messages apart and are not special (SOFT), special ones (CONTROL)."""

    kind: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    variables: dict[str, Any]


class Writer:
    """Writes random texts, some of them with one of `planted` in it, but none with one of `forbidden`."""

    def __init__(self, rng: Random, forbidden: list[str], planted: list[str]) -> None:
        self._rng, self._forbidden, self._planted = rng, forbidden, planted

    def text(self) -> str:
        rng = self._rng
        pieces = [rng.choice(PIECES) for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 5]))]
        if pieces and rng.random() < 0.3:
            pieces.insert(rng.randrange(len(pieces)), " ")
        text = "".join(pieces)
        if self._planted and rng.random() < 0.6:
            place = rng.choice([0, len(text), rng.randint(0, len(text))])
            text = text[:place] + rng.choice(self._planted) + text[place:]
        return "ok" if any(word in text for word in self._forbidden) else text


def fragments(rng: Random, tokens: list[str]) -> list[str]:
    """Each token as a whole, doubled, and pieces of it."""
    cut = [(token, rng.randint(1, max(1, len(token) - 1))) for token in tokens]
    return [*tokens, *tokens, *(t + t for t in tokens), *(t[:n] for t, n in cut), *(t[n:] for t, n in cut)]


def random_tools(rng: Random, writer: Writer) -> list[dict[str, Any]] | None:
    """No tools, none in a list, one, or two."""
    other = {**TOOL, "function": {**TOOL["function"], "description": writer.text()}}
    return rng.choice([None, None, None, [TOOL], [TOOL, other], []])


def random_chat(rng: Random, kind: str, writer: Writer, tools: list[dict[str, Any]] | None) -> Chat:
    """A conversation in the usual order of roles, or now and then in none."""
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": writer.text()})
    for turn in range(rng.choice([1, 1, 2, 3, 4])):
        messages.append(answer(rng, writer) if turn % 2 else {"role": "user", "content": content(rng, writer)})
        if messages[-1].get("tool_calls"):
            messages.append({"role": "tool", "name": "forecast", "content": writer.text()})
    if rng.random() < 0.05:
        rng.shuffle(messages)
    if rng.random() < 0.04:
        messages[-1]["role"] = rng.choice(["critic", "developer", "model", ""])
    variables: dict[str, Any] = {"add_generation_prompt": rng.random() < 0.7}
    if rng.random() < 0.1:
        variables["date_string"] = "02 Jan 2025"
    return Chat(kind, messages, tools, variables)


def content(rng: Random, writer: Writer) -> Any:
    if rng.random() > 0.06:
        return writer.text()
    return [{"type": "text", "text": writer.text()} for _ in range(rng.randint(1, 2))]


def answer(rng: Random, writer: Writer) -> dict[str, Any]:
    """An assistant's message: a text, perhaps with its reasoning, or a call of a tool."""
    message: dict[str, Any] = {"role": "assistant", "content": writer.text()}
    if rng.random() < 0.2:
        message[rng.choice(["reasoning_content", "thinking", "reasoning"])] = writer.text()
    if rng.random() < 0.15:
        arguments = {"city": writer.text(), "days": rng.randint(0, 9), "nested": {"on": True, "off": None}}
        message["tool_calls"] = [{"type": "function", "function": {"name": "forecast", "arguments": arguments}}]
        if rng.random() < 0.5:
            message["content"] = None
    return message
