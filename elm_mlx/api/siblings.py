"""Several completions of one prompt: requests that share its keys and values, each with a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from elm_mlx.arguments import whole_number
from elm_mlx.engine.request import Request
from elm_mlx.errors import InvalidRequest
from elm_mlx.seeds import seed_of

FAMILIES = count(1)


def siblings(request: Request, n: int) -> Iterator[Request]:
    """Makes `n` requests of one that differ in their seeds. One alone keeps its seed; of several, number i from 0 has
    the seed `seed_of(seed, i)`, or none where the request has none. The first alone leaves its keys and values for
    later requests. Raises InvalidRequest where `n` is no number above 0."""
    if whole_number("n", n) < 1:
        raise InvalidRequest(f"n is {n}; it must be above 0.")
    return iter([request]) if n == 1 else family_of(request, n)


def family_of(request: Request, n: int) -> Iterator[Request]:
    """Several requests that may begin with each other's keys and values, made one by one as they are asked for."""
    family, seed = next(FAMILIES), request.seed
    for i in range(n):
        own = None if seed is None else seed_of(whole_number("seed", seed), i)
        yield replace(request, seed=own, family=family, keep=request.keep and not i)
