"""What one line asks of a model, in whichever form it is written, and the rules that both forms share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.errors import ElmError, InvalidRequest

Id = str | int
MAX_ID = 512  # characters of a text, digits of a number
MAX_MESSAGE = 1000  # characters of an error; some errors repeat what the line says
OPTIONS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
           "frequency_penalty", "logit_bias", "seed", "stop", "window", "kv_bits")  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """A request: either `messages`, or a `prompt` as text or ids, which is given to the model as it is where `as_is`.
    `options` are those that the line itself names, by their names in Python."""

    options: dict[str, Any]
    prompt: str | list[int] | None = None
    messages: list[dict[str, Any]] | None = None
    as_is: bool = False


def check_id(name: str, value: object, kinds: tuple[type, ...] = (str, int)) -> Any:
    """Returns an id: a text of 1 to MAX_ID characters or, where `kinds` has int, a whole number. Raises InvalidRequest
    for anything else."""
    wanted = " or ".join({str: f"a text of 1 to {MAX_ID} characters", int: "a whole number"}[kind] for kind in kinds)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 1 <= len(str(value)) <= MAX_ID:
        raise InvalidRequest(f"{name} is {shown(value)}; it must be {wanted}.")
    return value


def check_fields(where: str, fields: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises InvalidRequest for a field that is none of the `known` ones, so that no wish is lost in silence. `where`
    is put before its name."""
    for name in fields:
        if name not in known:
            near = get_close_matches(name[:80], known, n=1, cutoff=0.75)
            advice = f"Did you mean {near[0]}?" if near else "Leave it out."
            raise InvalidRequest(f"{where}{name:.80} is not a field that elm-mlx knows. {advice}")


def options_in(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The options of generation among some fields; one that is null counts as missing. Raises InvalidRequest for a
    logit_bias that is no object with ids for its names."""
    found = {name: fields[name] for name in OPTIONS if fields.get(name) is not None}
    if "logit_bias" in found:
        found["logit_bias"] = biases_in(found["logit_bias"])
    return found


def biases_in(value: object) -> dict[int, Any]:
    """The biases of a JSON object, whose names are texts, by ids. Raises InvalidRequest for all else; whether the
    numbers mean something is judged later."""
    if not isinstance(value, dict) or not all(name.isascii() and name.isdigit() and len(name) <= 9 for name in value):
        raise InvalidRequest(f'logit_bias is {shown(value)}; it must be an object like {{"15": -2.5}}, a number for an '
                             "id.")  # fmt: skip
    return {int(name): bias for name, bias in value.items()}


def check_prompt(name: str, value: object) -> Any:
    """Returns a prompt: a text, or a list of ids. Raises InvalidRequest for anything else; whether the model has these
    ids is judged later."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(type(one) is int for one in value):
        return value
    several = isinstance(value, list) and all(isinstance(one, str | list) for one in value)
    advice = "Write a line for each." if several else "It must be a text or a list of token ids."
    raise InvalidRequest(f"{name} is {'a list of prompts' if several else shown(value)}. {advice}")


def sentence(error: ElmError) -> str:
    """The text of an error for the line that it stays in, cut where it is long."""
    return str(error)[:MAX_MESSAGE]
