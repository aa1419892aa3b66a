"""--parallel: a command whose model several ranks hold together. Rank 0 runs the command, the others do what its model
does, and print nothing but errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click

from elm_mlx.cli.messages import QUIET
from elm_mlx.cli.wishes import settle
from elm_mlx.errors import InvalidRequest
from elm_mlx.shell import command_line

COMMANDS = ("generate", "chat", "batch", "serve", "bench")
KINDS = ("tensor", "pipeline")
RANK, JOB = "MLX_RANK", "ELM_MLX_JOB"  # what the launcher of MLX, and ours, tell a rank
KIND = "elm_mlx.parallel"  # in click's context: how the ranks hold the model of this command
PRINTED = ("show_config", "connect")  # options that print something and need no model
OPTION = click.option(
    "--parallel",
    type=click.Choice(KINDS),
    help="Hold the model together with the other ranks that `elm-mlx launch` starts: a share of every layer each, or "
    "whole layers.",
)
# What several ranks do not do: option -> why.
REFUSED = {
    "draft": "A model on several machines answers a token a step",
    "lookup": "A model on several machines answers a token a step",
    "adapter": "Adapters are added to whole matrices, and each rank has parts of them",
    "adapters": "Adapters are added to whole matrices, and each rank has parts of them",
    "save_cache": "Each rank holds keys and values of its part alone",
    "load_cache": "Each rank holds keys and values of its part alone",
    "pull": "The model has to be on every machine before",
    "stdio": "A model on several machines is not served over pipes",
    "shapes": "Random weights are made on one machine",
    "compare": "mlx-lm computes on one machine",
}


def parallel(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --parallel to a command. With it, only rank 0 calls the command; what several ranks cannot do is refused."""

    @wraps(command)
    def run(parallel: str | None, **options: Any) -> None:
        asked = {"parallel": parallel}
        settle(check_ranks, asked, "parallel")
        kind: Any = asked["parallel"]
        meta = click.get_current_context().meta
        if kind is None:
            command(**options)
        elif rank() == 0:
            meta[KIND] = kind
            command(**settled(options))
        else:
            meta[QUIET] = True  # rank 0 says the same
            options = settled(options)
            if not any(options.get(name) for name in PRINTED):
                from elm_mlx.cli.following import follow  # here, as it brings MLX

                follow(kind, options)

    return OPTION(run)


def check_words(words: Sequence[str]) -> None:
    """Reads a command line as the ranks will, so that what is wrong with it is said once. Raises InvalidRequest for a
    command that several ranks cannot run, and for one without --parallel; and as click does."""
    name = words[0]
    if name not in COMMANDS:
        raise InvalidRequest(f"`{name[:40]}` does not run on several ranks; {', '.join(COMMANDS)} do.")
    whole = click.get_current_context().find_root()
    assert isinstance(whole.command, click.Group)
    command = whole.command.get_command(whole, name)
    assert command
    with command.make_context(name, [*words[1:]], whole) as context:
        if context.params["parallel"] is None:
            raise InvalidRequest(NO_KIND, ADVICE)


NO_KIND = "Nothing says how the ranks share the model, so each would do all the work."
ADVICE = "Add {parallel=tensor}, which is faster, or {parallel=pipeline}, which runs every model."


def check_ranks(parallel: str | None) -> None:
    """Raises InvalidRequest for --parallel where nobody has started ranks, and for our ranks without it."""
    if parallel and RANK not in os.environ:
        name = click.get_current_context().info_name
        started = command_line("elm-mlx", "launch", "-n", 2, name, "--parallel", parallel)
        raise InvalidRequest(
            "This is one process.",
            f"{{parallel}} shares a model between several. `{started}`, with your other options, starts two here; or "
            "leave {parallel} out.",
        )
    if not parallel and JOB in os.environ:
        raise InvalidRequest(NO_KIND, ADVICE)


def rank() -> int:
    """The number of this process's rank, as who started it says. Raises InvalidRequest for what is no number."""
    text = os.environ.get(RANK, "")
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise InvalidRequest(
            f"{RANK} is {text[:40]!r}, and not the number of a rank. Start the command by `elm-mlx launch`."
        )
    return int(text)


def settled(options: dict[str, Any]) -> dict[str, Any]:
    """The options without wishes that mean nothing to several ranks. Raises InvalidRequest for such that were typed."""
    lists = {name for name, value in options.items() if isinstance(value, tuple)}
    settle(refuse_alone, options, *REFUSED)
    return options | {name: () for name in lists if options[name] is None}


def refuse_alone(**options: Any) -> None:
    """Raises InvalidRequest for options that mean nothing where several ranks hold one model."""
    for name, why in REFUSED.items():
        if options.get(name):
            raise InvalidRequest(f"{why}.", f"Leave {{{name}}} or {{parallel}} out.")
    if len(options.get("models") or ()) > 1:
        raise InvalidRequest("Ranks share a single model.", "Name one as {models}.")
    if isinstance(bits := options.get("bits"), list) and len(bits) > 1:
        raise InvalidRequest("Ranks share a single model.", "Name one number of {bits}.")


def kind_here() -> Any:
    """How the ranks hold the model of the command that runs, on rank 0; None for one process alone."""
    context = click.get_current_context(silent=True)
    return context.meta.get(KIND) if context else None
