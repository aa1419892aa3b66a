"""What several APIs tell of an answer: its calls, how they are written, and what its reasoning took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from elm_mlx.protocols.ask import Ask

if TYPE_CHECKING:
    from elm_mlx.api import Completion, LanguageModel
    from elm_mlx.text.tools import ToolCall


def calls_told(ask: Ask, completion: Completion) -> Sequence[ToolCall]:
    """The calls of an answer that are told: all, or the first alone where that was asked for."""
    return completion.tool_calls if ask.calls_in_parallel else completion.tool_calls[:1]


def arguments_text(call: ToolCall) -> str:
    """The arguments of a call as JSON text."""
    return json.dumps(dict(call.arguments), ensure_ascii=False)


def reasoning_tokens(completion: Completion, lm: LanguageModel) -> int:
    """How many of an answer's tokens are its reasoning: about as many as its text has."""
    if not completion.reasoning:
        return 0
    return min(len(lm.tokenizer.encode_text(completion.reasoning)), completion.stats.generated_tokens)
