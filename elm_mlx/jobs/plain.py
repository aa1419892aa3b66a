"""elm-mlx's own lines: {id, prompt or messages, options} to {id, text, tokens, finish_reason, error}."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from elm_mlx.errors import ElmError, InvalidRequest
from elm_mlx.jobs.ask import OPTIONS, Ask, Id, check_fields, check_id, check_prompt, options_in, sentence
from elm_mlx.jobs.messages import read_messages
from elm_mlx.jobs.origin import Origin

if TYPE_CHECKING:
    from elm_mlx.api import Completion
    from elm_mlx.protocols.token_texts import TokenTexts

KEYS = ("id", "text", "tokens", "finish_reason", "error")
SHAPES = (KEYS, (*KEYS, "logprobs"))  # what the keys of an answer may be
FORMS = ("schema", "regex", "choices", "grammar", "response_format")
OWN_OPTIONS = ("banned_ids", "logprobs", *FORMS)  # that lines of OpenAI do not have


def read_id(fields: Mapping[str, Any], number: int) -> Id:
    """The id of a line, its number in the file where it names none. Raises InvalidRequest for what is no id."""
    return number if fields.get("id") is None else check_id(f"The id of line {number}", fields["id"])


def read_ask(fields: Mapping[str, Any]) -> Ask:
    """What a line asks. Raises InvalidRequest, with a sentence that names the field."""
    check_fields("", fields, ("id", "prompt", "messages", *OPTIONS, *OWN_OPTIONS))
    if ("prompt" in fields) == ("messages" in fields):
        raise InvalidRequest("A line must have a prompt or messages, and not both.")
    options = options_in(fields) | {name: fields[name] for name in OWN_OPTIONS if fields.get(name) is not None}
    if "messages" in fields:
        return Ask(options, messages=read_messages(fields["messages"]))
    prompt = check_prompt("prompt", fields["prompt"])
    return Ask(options, prompt=prompt, as_is=not isinstance(prompt, str))


def answer(id: Id, origin: Origin, ask: Ask, completion: Completion, texts: TokenTexts | None = None) -> dict[str, Any]:
    """The line for a finished answer. The texts of tokens are not needed: it names their ids."""
    record: dict[str, Any] = dict(
        zip(KEYS, (id, completion.text, completion.tokens, completion.finish_reason, None), strict=True)
    )
    if completion.logprobs is not None:
        record["logprobs"] = logprobs_of(completion)
    return record


def logprobs_of(completion: Completion) -> list[dict[str, Any]]:
    """The log-probabilities of a completion as JSON has them, an object a token."""
    return [
        {"logprob": finite(one.logprob), "alternatives": [[id, finite(x)] for id, x in one.alternatives]}
        for one in completion.logprobs or ()
    ]


def finite(logprob: float) -> float | None:
    """A log-probability as JSON has it: null for minus infinity."""
    return logprob if logprob > -math.inf else None


def failure(id: Id, origin: Origin, error: ElmError) -> dict[str, Any]:
    """The line for a request that has no answer."""
    return dict(zip(KEYS, (id, None, [], None, sentence(error)), strict=True))


def id_of_result(record: Mapping[str, Any]) -> Id:
    """The id that a written line answers. Raises InvalidRequest for what is no id."""
    return check_id("id", record["id"])
