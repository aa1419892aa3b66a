"""`elm-mlx chat`: a conversation at the terminal."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.conversation import Chat
from elm_mlx.cli.entries import read_entries
from elm_mlx.cli.find import load_with_notices, refuse_system
from elm_mlx.cli.generation_options import (
    CACHES,
    CHAT_TEMPLATE,
    MODEL_AND_BITS,
    PLAIN,
    SEED,
    SHOW_CONFIG,
    SPECULATION,
    max_tokens,
    sampling,
)
from elm_mlx.cli.kinds import STOP, TEXT
from elm_mlx.cli.messages import quietable, say
from elm_mlx.cli.parallel import parallel
from elm_mlx.cli.sections import SectionedCommand
from elm_mlx.cli.show_config import print_config
from elm_mlx.cli.wishes import settle
from elm_mlx.errors import InvalidRequest


@click.command(cls=SectionedCommand)
@MODEL_AND_BITS
@click.option("--system", type=TEXT, help="The system message: what the model is to be.")
@CHAT_TEMPLATE
@sampling()
@SEED
@PLAIN
@max_tokens(default=1024, meaning="An answer has at most this many tokens.")
@STOP
@CACHES
@SPECULATION
@click.option("--json", "as_json", is_flag=True, help="With --show-config: print one JSON object.")
@SHOW_CONFIG
@quietable
@parallel
def command(
    model: str | None,
    bits: str | None,
    force: bool,
    system: str | None,
    chat_template: str | None,
    as_json: bool,
    show_config: bool,
    **options: Any,
) -> None:
    """Talk to a model. Answers go to standard output as they come; /help lists what you can type.

    A model with a chat template is asked through it; any other completes what you type. A line that ends in a
    backslash continues on the next one, and three quotes begin and end a longer text. Ctrl-C stops an answer, Ctrl-D
    ends the program.
    """
    if show_config:
        print_config(model, bits, {"chat_template": chat_template, "system": system}, options, as_json)
        return
    settle(refuse_json, {"as_json": as_json}, "as_json")
    prefer_fast_blas()
    lm = load_with_notices(model, bits, force, chat_template, options)
    asked = {"system": system}
    settle(partial(refuse_system, lm), asked, "system")
    if model and not lm.has_chat_template:
        say("This model has no chat template, so it completes what you type. --chat-template gives it one.")
    talk = Chat(lm, asked["system"], options)
    talk.run(read_entries())
    if talk.failure and not sys.stdin.isatty():  # at a terminal a person has seen it
        raise click.exceptions.Exit(talk.failure.exit_code)


def refuse_json(as_json: bool) -> None:
    """Raises InvalidRequest for a conversation as JSON, which is text."""
    if as_json:
        raise InvalidRequest("A conversation cannot be JSON.", "Leave {as_json} out; it is for {show_config}.")
