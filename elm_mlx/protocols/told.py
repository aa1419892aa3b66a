"""What several APIs tell of an answer: its calls, how they are written, and what its reasoning took."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elm_mlx.api import Completion, LanguageModel
    from elm_mlx.text.tools import ToolCall


def arguments_text(call: ToolCall) -> str:
    """The arguments of a call as JSON text."""
    return json.dumps(dict(call.arguments), ensure_ascii=False)


def reasoning_tokens(completion: Completion, lm: LanguageModel) -> int:
    """How many of an answer's tokens are its reasoning: about as many as its text has."""
    if not completion.reasoning:
        return 0
    return min(len(lm.tokenizer.encode_text(completion.reasoning)), completion.stats.generated_tokens)
