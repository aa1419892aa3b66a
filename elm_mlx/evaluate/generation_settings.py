"""How a task wants answers to be generated, as options of a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.arguments import whole_number
from elm_mlx.config.stop_strings import check_stop_strings
from elm_mlx.errors import InvalidRequest

MOST_TOKENS = 256  # of an answer where a task names no number, as in lm-eval
SAMPLED = ("temperature", "top_p", "top_k", "min_p")


def generation_options(settings: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """(tokens of an answer, options of a call) that a task's generation_kwargs ask for. Raises InvalidRequest for those
    that mean nothing here."""
    rest = dict(settings)
    until = rest.pop("until", None) or []
    tokens = next((rest.pop(name) for name in ("max_gen_toks", "max_new_tokens", "max_tokens") if name in rest), None)
    sampled = {name: rest.pop(name) for name in SAMPLED if name in rest}
    draws = rest.pop("do_sample", False)
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in sampled.values()):
        raise InvalidRequest(f"A task's generation_kwargs hold {sampled}, which must be numbers.")
    if rest:
        raise InvalidRequest(f"A task's generation_kwargs name {', '.join(map(repr, rest))}, which nothing here does.",
                             "Leave this task out of {tasks}.")  # fmt: skip
    stops = check_stop_strings([until] if isinstance(until, str) else [each for each in until if each])
    options: dict[str, Any] = {"plain": True, "stop": list(stops)}
    if draws and sampled.get("temperature", 1.0):
        options |= {"temperature": 1.0, **sampled}
    return whole_number("max_gen_toks", MOST_TOKENS if tokens is None else tokens), options
