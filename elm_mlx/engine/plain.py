"""The decoding loop for one prompt: prefill, then one id a step; the next step is submitted before an id is read."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence

import mlx.core as mx

from elm_mlx.arguments import Progress
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.layer import Layer
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
    execution: Execution = DEFAULT_EXECUTION,
    progress: Progress | None = None,
    seen: list[mx.array] | None = None,
) -> Generator[int, None, None]:
    """Yields up to `max_tokens` ids after `prompt`; the last one is a stop id, or the id with which `stopper`
    ended the answer, if one of these was drawn.

    While the caller reads an id, the next one is being computed, unless that id is the last. The cache needs room for
    len(prompt) + max_tokens - 1 positions (CacheFull otherwise). However the loop ends, the cache then holds the
    prompt and every id yielded but the last. `seen` is given the logits [1, V] that each id was drawn from, in order.
    Raises NotFinite instead of an id whose logits are no numbers.
    """
    logits = prefill(model, mx.array([prompt]), cache, execution, progress)
    ahead = sampler(logits), peaks(logits)
    mx.async_eval(*ahead)
    held = cache[0].offset
    try:
        for count in range(1, max_tokens + 1):
            current, highest = ahead
            if seen is not None:
                seen.append(logits)
            if count < max_tokens:
                logits = model.head(model.last_hidden(current[:, None], cache))
                ahead = sampler(logits), peaks(logits)
                mx.async_eval(*ahead)
            token = int(current.item())  # type: ignore[arg-type]
            refuse_not_finite(highest.item(), count)  # type: ignore[arg-type]
            yield token
            if token in stop_ids or (stopper and stopper.add(token) is not None):
                return
            held += 1
    finally:
        for layer in cache:
            layer.trim(layer.offset - held)
