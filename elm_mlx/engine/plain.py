"""The decoding loop for one prompt: prefill, then one id a step; the next step is submitted before an id is read."""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Sequence

import mlx.core as mx
import numpy as np

from elm_mlx.arguments import Progress
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.layer import Layer
from elm_mlx.engine.constraint import Constraint
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.finite import peaks, refuse_not_finite
from elm_mlx.engine.prefill import DEFAULT_EXECUTION, prefill
from elm_mlx.engine.sampling import Sampler
from elm_mlx.engine.stopper import Stopper


def generate(
    model: Decodes,
    prompt: Sequence[int],
    cache: Sequence[Layer],
    sampler: Sampler,
    *,
    max_tokens: int,
    stop_ids: Collection[int] = (),
    stopper: Stopper | None = None,
    constraint: Constraint | None = None,
    execution: Execution = DEFAULT_EXECUTION,
    progress: Progress | None = None,
    seen: list[mx.array] | None = None,
) -> Generator[int, None, None]:
    """Yields up to `max_tokens` ids after `prompt`; the last one is a stop id, or the id with which `stopper`
    ended the answer, if one of these was drawn.

    While the caller reads an id, the next one is being computed, unless that id is the last. The cache needs room for
    len(prompt) + max_tokens - 1 positions (CacheFull otherwise). However the loop ends, the cache then holds the
    prompt and every id yielded but the last. `seen` is given the logits [1, V] that each id was drawn from, in order.
    With a `constraint` an id is drawn from those that it allows, and computed when the one before is read. Raises
    NotFinite instead of an id whose logits are no numbers, and what the constraint raises.
    """

    def draw() -> tuple[mx.array, mx.array]:
        drawn = sampler(restrict(logits, constraint.mask()) if constraint else logits), peaks(logits)
        mx.async_eval(*drawn)
        return drawn

    logits = prefill(model, mx.array([prompt]), cache, execution, progress)
    ahead = draw()
    held = cache[0].offset
    try:
        for count in range(1, max_tokens + 1):
            current, highest = ahead
            if seen is not None:
                seen.append(logits)
            if count < max_tokens:
                logits = model.head(model.last_hidden(current[:, None], cache))
                ahead = ahead if constraint else draw()
            token = int(current.item())  # type: ignore[arg-type]
            refuse_not_finite(highest.item(), count)  # type: ignore[arg-type]
            if constraint and token not in stop_ids:
                constraint.accept(token)
            yield token
            if token in stop_ids or (stopper and stopper.add(token) is not None):
                return
            held += 1
            if constraint and count < max_tokens:
                ahead = draw()
    finally:
        for layer in cache:
            layer.trim(layer.offset - held)


def restrict(logits: mx.array, mask: np.ndarray) -> mx.array:
    """Logits [1, V] -> logits [1, V], minus infinity for an id whose bit in the mask, uint32 [ceil(V / 32)], is 0."""
    allowed = np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little")[: logits.shape[-1]]
    return mx.where(mx.array(allowed.astype(np.bool_)), logits, -math.inf)
