"""`elm-mlx info --hosts`: what a model takes on machines that need not be here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.cli.find import find_here
from elm_mlx.cli.messages import one_line
from elm_mlx.errors import InvalidRequest
from elm_mlx.files import readable_size

if TYPE_CHECKING:
    from elm_mlx.distributed.planning import Holding, Plan, Question

HELD = {"tensor": "a share of every layer on each rank", "pipeline": "whole layers on each rank"}
NOTE = "arithmetic, nothing is measured: docs/distributed.md has it, with its sources"


def show_hosts(
    model: str | None, hosts: str, parallel: str | None, sizes: dict[str, Any], as_json: bool
) -> None:  # fmt: skip
    """Prints the plan of a model on machines; `sizes` are the options `context` and `bits`."""
    from elm_mlx.distributed.planning import Question, plan, read_machines  # here, as --help needs no MLX

    name, bits = "demo" if model is None else model, int(sizes["bits"]) if sizes["bits"] else None
    config, holding, stored = what_is_held(model, bits)
    kind: Any = parallel
    question = Question(name, config, read_machines(hosts), kind, sizes["context"])
    found = plan(question, holding)
    if as_json:
        click.echo(json.dumps(as_object(question, found, stored)))
        return
    for title, value in rows(question, found, stored):
        click.echo(one_line(f"{title:<16} {value}"))


def what_is_held(model: str | None, bits: int | None) -> tuple[Any, Holding, str]:
    """(a model's shape, what ranks hold of it, how it is stored, in words): as its files here have it, else as it would
    be fetched, or in these bits. Raises NotFound for a model that is neither here nor known."""
    from elm_mlx.distributed.planning import in_bits, in_directory, quantized
    from elm_mlx.distributed.published import published
    from elm_mlx.store.load import read_config

    if place := find_here(model, None):
        config = read_config(place)
        if bits is None:
            return config, in_directory(place, config), "as it is stored here"
        return quantized(config, bits), in_bits(config, bits), f"as if in {bits} bits"
    config, usual = published(str(model))
    bits = bits or usual
    stored = f"as if in {f'{bits} bits' if bits else '16-bit floats'}; it is not here"
    return quantized(config, bits), in_bits(config, bits), stored


def refuse_caches(window: int | None, kv_bits: str | None) -> None:
    """Raises InvalidRequest for kinds of caches, which are not planned for machines."""
    if window or kv_bits:
        raise InvalidRequest("A plan counts caches of floats without a window.", "Leave {window} and {kv_bits} out.")


def refuse_idle_kind(parallel: str | None) -> None:
    """Raises InvalidRequest for a way of holding a model on one machine."""
    if parallel:
        raise InvalidRequest("", "{parallel} says how machines share a model. Give {hosts}, too, or leave it out.")


def rows(question: Question, found: Plan, stored: str) -> Iterator[tuple[str, str]]:
    """The plan as (title, value)."""
    yield "model", f"{question.name}, {stored}"
    if len(found.ranks) > 1:
        yield "held", f"{found.kind}: {HELD[found.kind]}"
    staged = found.kind == "pipeline" and len(found.ranks) > 1
    numbered = enumerate(zip(found.ranks, question.machines, strict=True))
    for (rank, machine), alike in groupby(numbered, lambda one: one[1]):
        first, *others = (number for number, _ in alike)
        held = rank.held
        yield (
            f"ranks {first} to {others[-1]}" if others else f"rank {first}",
            f"{machine} GB, {readable_size(rank.available)} for a model; weights {readable_size(held.weights)}, cache "
            f"{held.kv:,} bytes per token{f', blocks {held.blocks.start} to {held.blocks.stop - 1}' if staged else ''}",
        )
    yield "context", f"{found.context:,} tokens fit"
    if found.collectives:
        yield "collectives", f"{found.collectives:,} a step, one after the other"
    for chip, ways in found.bounds(max(question.machines)).items():
        rates = [f"{in_digits(rate)}{f' over {way}' if found.collectives else ''}" for way, rate in ways.items()]
        yield "bound", f"{chip}: at most {', '.join(dict.fromkeys(rates))} tokens/s for one request, with empty caches"
    yield "note", NOTE


def in_digits(rate: float) -> str:
    """A rate with three digits, or whole."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def as_object(question: Question, found: Plan, stored: str) -> dict[str, Any]:
    """The plan as an object of JSON."""
    ranks = [
        {
            "memory_gb": machine,
            "available_bytes": rank.available,
            "weight_bytes": rank.held.weights,
            "headroom_bytes": rank.needed - rank.held.weights,
            "kv_bytes_per_token": rank.held.kv,
            "blocks": [rank.held.blocks.start, rank.held.blocks.stop],
        }
        for rank, machine in zip(found.ranks, question.machines, strict=True)
    ]
    return {
        "model": question.name,
        "stored": stored,
        "parallel": found.kind,
        "ranks": ranks,
        "context": found.context,
        "collectives": found.collectives,
        "bound_tokens_per_s": found.bounds(max(question.machines)),
        "note": NOTE,
    }
