"""Short prompts that are read together, in one pass: for few ids a pass costs nearly as much as for several times as
many."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.layer import Layer
from elm_mlx.engine.cache.ragged import ragged
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.prefixes import Prefixes, shared_length
from elm_mlx.engine.sequence import Sequence as Row

MOST_IDS = 128  # of all prompts of a pass, those that fill up the shorter ones included (benchmarks/LOG.md)


def read_together(model: Decodes, prompts: Sequence[Sequence[int]], caches: Sequence[Sequence[Layer]]) -> mx.array:
    """Reads several prompts, each after what its own cache holds, and returns the logits [B, V] after the last id of
    each, not evaluated yet. Shorter ones are filled up at the front."""
    news = [len(prompt) for prompt in prompts]
    ids = mx.array([[prompt[-1]] * (max(news) - len(prompt)) + [*prompt] for prompt in prompts])
    return model.head(model.last_hidden(ids, ragged(caches, news)))


def are_few(news: Sequence[int], held: int, execution: Execution) -> bool:
    """Whether prompts with so many new ids can be read in one pass, the deepest of them after `held` positions."""
    longest = max(news)
    ids = longest * len(news)
    fits = not execution.chunk_area or ids * (held + longest) <= execution.chunk_area
    return ids <= min(MOST_IDS, execution.chunk) and fits


def is_better_later(one: Row, held: int, others: Sequence[Row]) -> bool:
    """Whether a request that can begin with so many held positions can begin with more of them once the `others` are
    read."""
    shared = max(shared_length(one.request.prompt[:-1], other.request.prompt) for other in others)
    return shared >= Prefixes.LEAST and shared > held
