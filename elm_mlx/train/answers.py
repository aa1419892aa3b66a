"""Answers that `elm-mlx batch --with-prompts` wrote, as rows to learn from: so one model's answers teach another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.errors import InvalidRequest
from elm_mlx.jobs import openai, plain
from elm_mlx.jobs.prompts import MESSAGES, PROMPT, RAW, WHOLE

FAILED, CUT = "their requests failed", "they were cut off by max_tokens, so they do not end as an answer does"
EMPTY = "they are empty"


def is_answer(row: Mapping[str, Any]) -> bool:
    """Whether a row is a line that `elm-mlx batch` writes."""
    return set(plain.KEYS) <= set(row) or set(openai.KEYS) <= set(row)


def row_of(record: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """(the row of prompt and completion, or of messages, that an answer teaches; why it is to be left out, if so).
    Raises InvalidRequest for an answer without its prompt, and for what no batch writes."""
    if record["error"] is not None:
        return {}, FAILED
    text, reason = answer_in(record)
    if reason == "length":
        return {}, CUT
    if text == "":
        return {}, EMPTY
    if isinstance(messages := record.get(MESSAGES), list):
        return {"messages": [*messages, {"role": "assistant", "content": text}]}, None
    if isinstance(prompt := record.get(PROMPT), str):
        return {"prompt": prompt, "completion": record.get(WHOLE, text), "raw": record.get(RAW) is True}, None
    if PROMPT in record:
        raise InvalidRequest("answers a prompt of token ids, which mean another text to another model.",
                             "Ask with a text.")  # fmt: skip
    raise InvalidRequest("is a line of `elm-mlx batch` without its prompt.", "Run `elm-mlx batch --with-prompts`.")


def answer_in(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """(the text of an answer, why it ended). Raises InvalidRequest for what no batch writes."""
    try:
        if "text" in record:
            return record["text"], record["finish_reason"]
        choice = record["response"]["body"]["choices"][0]
        return choice["message"]["content"] if "message" in choice else choice["text"], choice["finish_reason"]
    except (KeyError, IndexError, TypeError) as error:
        raise InvalidRequest("is not an answer of `elm-mlx batch`. Leave it out.") from error
