"""The prompts of a completion: a text, a list of texts, ids, or a list of lists of ids."""

from __future__ import annotations

from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.protocols.openai.values import MAX_ID, as_text
from elm_mlx.protocols.refusal import FieldRefused

MOST_PROMPTS = 128


def read_prompts(value: object) -> tuple[str | list[int], ...]:
    """The prompts in the field `prompt`, one or several. Raises FieldRefused for anything else; whether the model has
    the ids is judged later."""
    if isinstance(value, str) or is_ids(value):
        return (read_prompt("prompt", value),)
    if not isinstance(value, list) or not value:
        raise FieldRefused("prompt", f"prompt is {shown(value)}; it must be a text, a list of texts, token ids, or a "
                           "list of lists of ids.", code_for(value))  # fmt: skip
    if len(value) > MOST_PROMPTS:
        raise FieldRefused("prompt", f"prompt has {len(value):,} prompts; it may have up to {MOST_PROMPTS}. Send the "
                           "others in other requests.")  # fmt: skip
    return tuple(read_prompt(f"prompt[{place}]", one) for place, one in enumerate(value))


def code_for(value: object) -> str:
    """The code of the error for what is no prompt."""
    return "missing_required_parameter" if value is None else "invalid_value"


def is_ids(value: object) -> bool:
    """Whether a value is a list of numbers, and so one prompt."""
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def read_prompt(where: str, value: Any) -> str | list[int]:
    """One prompt. Raises FieldRefused."""
    if isinstance(value, str):
        return as_text(where, value)
    if is_ids(value) and all(0 <= id <= MAX_ID for id in value):
        return list(value)
    raise FieldRefused(where, f"{where} is {shown(value)}; it must be a text or a list of token ids.")
