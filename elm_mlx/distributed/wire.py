"""What rank 0 tells the others of requests and steps, as plain values of JSON: ids, numbers and names alone."""

from __future__ import annotations

from dataclasses import astuple
from fractions import Fraction
from typing import Any

from elm_mlx.engine.cache.kind import CacheKind
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.plan import StepPlan
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence
from elm_mlx.errors import InvalidRequest

# What rank 0 and another rank must have alike before each step, in the order of `state_of`.
ALIKE = (
    "the requests that wait", "the requests that run", "the ids of their answers", "the last of these ids",
    "the positions in their caches", "the request that is read", "the caches reserved", "the caches kept",
)  # fmt: skip


def refuse_shared(request: Request) -> None:
    """Raises InvalidRequest for a request that several machines cannot answer together."""
    asked = {"lookup": request.lookup, "adapter": request.adapter is not None, "held caches": request.hold}
    for name in [name for name, is_asked in asked.items() if is_asked]:
        raise InvalidRequest(f"A model on several machines takes no {name}.", "Leave it out.")


def request_message(one: Sequence) -> dict[str, Any]:
    """What another rank needs of a request: how ids are drawn, and what ends the answer, is rank 0's alone."""
    request = one.request
    return {
        "number": one.number,
        "room": one.room,
        "late": one.draws_late,
        "prompt": request.prompt,
        "find": request.find,
        "keep": request.keep,
        "family": request.family,
        "owner": request.owner,
        "cache": astuple(request.cache),
    }


def request_in(message: dict[str, Any]) -> Request:
    """The request of such a message, as another rank computes it: it is drawn greedily, and nobody looks at that."""
    return Request(
        tuple(message["prompt"]),
        message["room"],
        find=message["find"],
        keep=message["keep"],
        family=message["family"],
        owner=message["owner"],
        cache=CacheKind(*message["cache"]),
    )


def plan_in(values: list[Any]) -> StepPlan:
    """The plan in a message; one is sent as the list of its values."""
    cancelled, admitted, reading, rows, early, proposals = values
    return StepPlan(tuple(cancelled), tuple(admitted), reading, tuple(rows), early, proposals)


def state_of(engine: Engine) -> list[Any]:
    """What must be alike on all ranks before a step. Bytes are told in positions of the rank's own caches, as
    fractions: each rank holds another share of a position."""
    running, budget, unit = engine.running, engine.limits.budget, engine.limits.token_bytes
    kept = engine.prefixes.entries
    return [
        [len(engine.waiting), engine.waiting[0].number if engine.waiting else 0],
        [one.number for one in running],
        [len(one.ids) for one in running],
        [one.ids[-1] if one.ids else -1 for one in running],
        [held_by(engine, one) for one in running],
        [engine.reading[0].number, engine.reading[0].read] if engine.reading else [],
        [*share(budget.reserved, unit), *share(budget.idle, unit)],
        [len(kept), sum(len(entry.ids) for entry in kept), *share(engine.prefixes.nbytes, unit)],
    ]


def held_by(engine: Engine, one: Sequence) -> int:
    """The positions that a running sequence's caches hold."""
    if one.cache:
        return one.cache[0].offset
    found = [group.slots.lengths[group.rows.index(one)] for group in engine.batch.groups if one in group.rows]
    return found[0] or 0 if found else 0


def share(nbytes: int, unit: int) -> tuple[int, int]:
    """Bytes in positions of `unit` bytes, as a fraction."""
    part = Fraction(nbytes, max(1, unit))
    return part.numerator, part.denominator


def difference(theirs: list[Any], own: list[Any]) -> str | None:
    """In which of ALIKE a rank's own state differs from that of rank 0, and how; None where it does not."""
    for name, there, here in zip(ALIKE, theirs, own, strict=True):
        if there != here:
            return f"{name}: {there} on rank 0, and {here} here"
    return None
