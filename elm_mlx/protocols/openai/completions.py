"""Completions: a Dialect. POST /v1/completions of OpenAI's API, the one for models without a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.arguments import shown
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Events, Facts
from elm_mlx.protocols.fields import fields_of
from elm_mlx.protocols.openai.answers import failed, refused
from elm_mlx.protocols.openai.options import answers_in, max_tokens_in, model_in, options_in, streamed_in
from elm_mlx.protocols.openai.prompts import read_prompts
from elm_mlx.protocols.openai.table import TEXT_FIELDS
from elm_mlx.protocols.openai.text_answer import TextEvents, whole_of
from elm_mlx.protocols.openai.values import whole_in
from elm_mlx.protocols.refusal import FieldRefused

if TYPE_CHECKING:
    from elm_mlx.api import Completion

__all__ = ["events", "failed", "read", "refused", "whole"]

MAX_TOKENS = 16  # of a request that names no number, as OpenAI's specification has it
MOST_ALTERNATIVES = 5
MOST_ANSWERS = 256  # of all prompts together


def read(body: Mapping[str, Any], *, strict: bool) -> Ask:
    """What a completion asks. Raises FieldRefused."""
    fields = fields_of(body, TEXT_FIELDS, strict=strict)
    prompts, n = read_prompts(body.get("prompt")), answers_in(body)
    if n * len(prompts) > MOST_ANSWERS:
        raise FieldRefused("n", f"n is {n} for {len(prompts)} prompts; a request may have {MOST_ANSWERS} answers in "
                           "all.")  # fmt: skip
    if (best_of := whole_in(body, "best_of", 0)) not in (None, 1, n) or (best_of == 1 and n != 1):
        raise FieldRefused("best_of", f"best_of is {shown(best_of)}; it must be n, as all answers are sent.",
                           "unsupported_parameter")  # fmt: skip
    most = whole_in(body, "logprobs", 0, MOST_ALTERNATIVES)
    echoes = fields.flag("echo") is True
    return Ask(
        model=model_in(body),
        prompts=prompts,
        max_tokens=MAX_TOKENS if body.get("max_tokens") is None else max_tokens_in(body),
        options=options_in(fields) | ({} if most is None else {"logprobs": most}),
        n=n,
        streamed=streamed_in(fields),
        scores_prompts=echoes and most is not None,
        ignored=tuple(fields.leftovers.names),
    )


def whole(ask: Ask, body: Mapping[str, Any], facts: Facts, completions: Sequence[Completion]) -> Mapping[str, Any]:
    """The text_completion object."""
    return whole_of(ask, facts, completions, echoes=body.get("echo") is True)


def events(ask: Ask, body: Mapping[str, Any], facts: Facts) -> Events:
    """The stream of a request."""
    return TextEvents(ask, facts, body, echoes=body.get("echo") is True)
