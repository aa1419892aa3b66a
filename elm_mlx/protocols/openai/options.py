"""How an answer is sampled and where it ends: from the fields of a request to the options of a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.config.stop_strings import check_stop_strings
from elm_mlx.errors import InvalidRequest
from elm_mlx.protocols.fields import Fields
from elm_mlx.protocols.openai.form import form_in
from elm_mlx.protocols.openai.values import MAX_ID, is_number, number_in, whole_in
from elm_mlx.protocols.refusal import FieldRefused

MOST_ANSWERS = 8
MOST_BIAS = 100  # the bound of OpenAI's specification
MAX_TOP_K = 2**31 - 1
NUMBERS = {
    "temperature": (0, 2), "top_p": (0, 1), "min_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2),
    "repetition_penalty": (0.01, 100),
}  # fmt: skip
OWN = ("window", "kv_bits", "lookup")  # options by their own names, judged where they are used
STREAM_OPTIONS = ("include_usage", "include_obfuscation")  # events are never padded, which the second one is about


def options_in(body: Fields) -> dict[str, Any]:
    """The options of a call that a request names; those of its log-probabilities aside. Raises FieldRefused."""
    options = sampling_in(body.value) | {"logit_bias": biases_in(body)}
    options |= {"banned_ids": ids_in(body.value, "banned_ids"), "reuse": body.flag("cache_prompt")}
    options |= {name: body.get(name) for name in OWN} | form_in(body)
    return {name: value for name, value in options.items() if value is not None}


def sampling_in(body: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have one name in all APIs: how the next token is chosen, and where an answer ends. Raises
    FieldRefused."""
    options: dict[str, Any] = {name: number_in(body, name, *bounds) for name, bounds in NUMBERS.items()}
    options |= {"top_k": top_k_in(body), "seed": whole_in(body, "seed"), "stop": stop_in(body)}
    if options["top_p"] == 0:  # no probability at all: only the likeliest token is left
        options |= {"temperature": 0, "top_p": None}
    return {name: value for name, value in options.items() if value is not None}


def top_k_in(body: Mapping[str, Any]) -> int | None:
    """How many of the likeliest tokens are kept, 0 for all. vLLM writes -1 for that."""
    found = whole_in(body, "top_k", -1, MAX_TOP_K)
    return 0 if found == -1 else found


def biases_in(body: Fields) -> dict[int, float] | None:
    """The biases by ids, which are texts in JSON. Raises FieldRefused; whether the model has the ids is judged
    later."""
    if body.get("logit_bias") is None:
        return None
    found: dict[int, float] = {}
    for name, bias in body.inner("logit_bias").value.items():
        if not (name.isascii() and name.isdigit() and len(name) <= 10):
            raise FieldRefused("logit_bias", f"logit_bias names {shown(name)}; its names are token ids, as in "
                               '{"15": -2.5}.')  # fmt: skip
        if not (is_number(bias) and abs(bias) <= MOST_BIAS):
            raise FieldRefused("logit_bias", f"logit_bias is {shown(bias)} for id {name}; it must be a number from "
                               f"{-MOST_BIAS} to {MOST_BIAS}.")  # fmt: skip
        found[int(name)] = bias
    return found


def ids_in(body: Mapping[str, Any], name: str) -> list[int] | None:
    """A list of token ids. Raises FieldRefused; whether the model has them is judged later."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, list) and all(type(one) is int and 0 <= one <= MAX_ID for one in value):
        return value
    raise FieldRefused(name, f"{name} is {shown(value)}; it must be a list of token ids.")


def stop_in(body: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The stop strings. Raises FieldRefused for what cannot be one."""
    try:
        return check_stop_strings(body.get("stop")) or None
    except InvalidRequest as error:
        raise FieldRefused("stop", str(error)) from error


def max_tokens_in(body: Mapping[str, Any], name: str = "max_tokens") -> int | None:
    """How many tokens an answer may have; None for as many as there is room for, which some clients write as -1.
    Raises FieldRefused."""
    found = whole_in(body, name, -1)
    if found == 0:
        raise FieldRefused(name, f"{name} is 0; it must be 1 or more, or -1 for as many as the context has room for.")
    return None if found == -1 else found


def answers_in(body: Mapping[str, Any]) -> int:
    """How many answers a prompt gets. Raises FieldRefused."""
    return whole_in(body, "n", 1, MOST_ANSWERS) or 1


def streamed_in(body: Fields) -> bool:
    """Whether events are asked for. Only then stream_options count. Raises FieldRefused."""
    streamed = body.flag("stream") is True
    if streamed:
        options = body.inner("stream_options")
        options.check(STREAM_OPTIONS)
        options.flag("include_usage")
    return streamed


def includes_usage(body: Mapping[str, Any]) -> bool:
    """Whether a stream is to end with the numbers of its tokens; `body` is one that was read."""
    options = body.get("stream_options")
    return isinstance(options, Mapping) and options.get("include_usage") is True


def model_in(body: Mapping[str, Any]) -> str | None:
    """The name of the model. None where there is none, or one that means the model which is loaded. Raises
    FieldRefused for an empty one."""
    value = body.get("model")
    if value is None or value in ("default", "default_model"):
        return None
    if isinstance(value, str) and value:
        return value
    raise FieldRefused("model", f"model is {shown(value)}; it must be a name from /v1/models. Or leave it out.")
