"""Answers that a test writes itself, in place of a model's: text and calls of tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from elm_mlx.api import Completion, Piece, Stats
from elm_mlx.errors import Cancelled
from elm_mlx.text.tools import ToolCall

FIGURES = Stats(0, 0, 0.0, None, None, 0)
Said = str | list[ToolCall]


def call(name: str, number: int = 1, **arguments: Any) -> ToolCall:
    return ToolCall(f"call-{number}", name, arguments)


class ScriptedStream:
    """An answer of one piece."""

    prompt = ()

    def __init__(self, said: Said) -> None:
        text, calls = (said, []) if isinstance(said, str) else ("", said)
        self.completion = Completion(text, [1], "stop", FIGURES, tool_calls=calls)
        self.rest = [Piece(text, 1, "stop")]
        self.is_cancelled = False

    def __next__(self) -> Piece:
        if self.is_cancelled or not self.rest:
            raise StopIteration
        return self.rest.pop()

    async def __anext__(self) -> Piece:
        if self.is_cancelled or not self.rest:
            raise StopAsyncIteration
        return self.rest.pop()

    def result(self, timeout: float | None = None) -> Completion:
        if self.is_cancelled:
            raise Cancelled("The request was cancelled before its end.", completion=self.completion)
        return self.completion

    async def aresult(self) -> Completion:
        return self.result()

    def cancel(self) -> None:
        self.is_cancelled = True


class Script:
    """Stands in for `chat_stream`: gives one answer after the other (the last one again and again), and notes what was
    asked."""

    def __init__(self, answers: Sequence[Said | Callable[[], Said]]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[list[Any], dict[str, Any]]] = []

    def __call__(self, messages: Sequence[Any], max_tokens: int | None, **options: Any) -> ScriptedStream:
        self.asked.append((list(messages), options))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return ScriptedStream(answer() if callable(answer) else answer)
