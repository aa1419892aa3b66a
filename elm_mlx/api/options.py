"""The options of a call that generates, each declared once for generate, stream and chat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, TypedDict

from elm_mlx.config.generation import Sampling
from elm_mlx.errors import InvalidRequest

MAX_TOKENS = 256  # of a call that names no other number


class Options(TypedDict, total=False):
    """How to choose the ids of an answer. An option that is missing or None means the model's own generation_config,
    and greedy decoding where that has none.

    `temperature` 0 is greedy. `top_k` keeps that many of the likeliest ids, `top_p` the likeliest that make up this
    share of the probability, `min_p` those at least this share as likely as the likeliest. The same `seed`, any whole
    number, gives the same ids; without one each call draws its own.
    """

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None


def check_names(options: Mapping[str, Any]) -> None:
    """Raises TypeError for an option that does not exist, as Python does for arguments."""
    for name in options:
        if name not in Options.__annotations__:
            near = get_close_matches(name, Options.__annotations__, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(Options.__annotations__)}."
            raise TypeError(f"There is no option {name!r}; {hint}")


def sampling_for(own: Sampling, options: Options) -> Sampling:
    """The model's own sampling, in which the caller's options replace the values of the same names.

    Raises InvalidRequest for values without a meaning, and for filters of the caller's without a temperature where the
    model is greedy by default; TypeError for an option that does not exist.
    """
    check_names(options)
    given = {name: value for name, value in options.items() if name != "seed" and value is not None}
    sampling = replace(own, **given)  # type: ignore[arg-type]
    useless = [name for name in sampling.filters if name in given]
    if useless and "temperature" not in given and sampling.is_greedy:
        raise InvalidRequest(
            f"{' and '.join(useless)} would change nothing: this model is greedy by default.",
            f"Give a {{temperature}}, or leave {' and '.join(f'{{{name}}}' for name in useless)} out.",
        )
    return sampling
