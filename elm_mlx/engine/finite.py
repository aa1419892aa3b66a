"""Finds logits that are no numbers, which a model with damaged weights gives, or one whose sums are too large."""

from __future__ import annotations

import math

import mlx.core as mx

from elm_mlx.errors import NotFinite


def peaks(logits: mx.array) -> mx.array:
    """The highest logit of each row, or NaN where a logit is NaN: logits [B, V] -> [B]. It is finite where an id can be
    drawn from the row. One kernel, which nothing but the host waits for."""
    return mx.max(logits, axis=-1)


def refuse_not_finite(peak: float, place: int) -> None:
    """Raises NotFinite where the peak of the logits for an answer's token at `place`, from 1, is not finite."""
    if not math.isfinite(peak):
        what = "NaN" if math.isnan(peak) else "infinite"
        raise NotFinite(
            f"The model's logits are {what} at token {place} of the answer: its weights are damaged, or its sums too "
            "large for the type that it computes in.",
            "Fetch or convert it again, with {dtype=bfloat16} if it is float16. `elm-mlx verify DIRECTORY --against "
            "DIRECTORY` names weights that are NaN or infinite.",
        )
