"""The fields by which a request chooses the model and how it is sampled, which several APIs have."""

from __future__ import annotations

from typing import Any

from elm_mlx.protocols.fields import Fields

MOST_TOP_K = 2**31 - 1


def read_model(body: Fields) -> str | None:
    """The name of the model; None where there is none. Raises FieldRefused for what is no name."""
    return None if body.get("model") is None else body.full_text("model")


def sampling_in(body: Fields, hottest: float = 2) -> dict[str, Any]:
    """The options of sampling in a request, by their names in Python; the temperature may go up to `hottest`. Raises
    FieldRefused."""
    found = {
        "temperature": body.number("temperature", 0, hottest),
        "top_p": body.number("top_p", 0, 1),
        "top_k": body.whole("top_k", 0, MOST_TOP_K),
        "min_p": body.number("min_p", 0, 1),
        "repetition_penalty": body.number("repetition_penalty", 0, 10),
        "presence_penalty": body.number("presence_penalty", -2, 2),
        "frequency_penalty": body.number("frequency_penalty", -2, 2),
        "seed": body.whole("seed", -(2**63), 2**64 - 1),
        "stop": body.get("stop") if isinstance(body.get("stop"), str) else body.texts("stop"),
    }
    options = {name: value for name, value in found.items() if value is not None}
    if options.get("top_p") == 0:
        # The likeliest token alone is what a share that is next to none leaves.
        options = {name: value for name, value in options.items() if name not in ("top_p", "top_k", "min_p")}
        options["temperature"] = 0
    return options
