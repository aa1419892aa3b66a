"""The options of every command that asks a model for text, each declared once, as `Options` does for the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from elm_mlx.cli.adapter import ADAPTER
from elm_mlx.cli.caches import KV_BITS, LOAD, SAVE, WINDOW
from elm_mlx.cli.find import MODEL, TEMPLATE_HELP
from elm_mlx.cli.forms import CHOICE, GRAMMAR, REGEX, SCHEMA
from elm_mlx.cli.kinds import (
    BIAS,
    BITS,
    COUNT,
    MIN_P,
    NAME,
    PENALTY,
    REPETITION_PENALTY,
    TEMPERATURE,
    TOKEN_ID,
    TOP_K,
    TOP_LOGPROBS,
    TOP_P,
)

Decorator = Callable[[Any], Any]


def join(*options: Decorator) -> Decorator:
    """One decorator that adds several options, which help shows in this order."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def repeatable(make: Callable[[Any], Any], *names: str, **settings: Any) -> Decorator:
    """An option that may be given several times: `make` of all its values; None where it is not given."""
    return click.option(
        *names, multiple=True, callback=lambda _, __, values: make(values) if values else None, **settings
    )


def biases(pairs: tuple[tuple[int, float], ...]) -> dict[int, float]:
    """What is added to the logits of some tokens. Raises BadParameter for a token that is named twice."""
    added = dict(pairs)
    if len(added) != len(pairs):
        raise click.BadParameter("it names a token twice. Add its biases up.")
    return added


def max_tokens(*names: str, default: int, meaning: str) -> Decorator:
    """The option of how long an answer may be, whose default each command has for itself."""
    return click.option(*names, "--max-tokens", type=COUNT, default=default, show_default=True, help=meaning)


def sampling(own: str = "the model's own, else ") -> Decorator:
    """The options by which a token is chosen; `own` stands in help before the default."""
    return join(
        click.option("--temperature", "--temp", type=TEMPERATURE, help=f"0 is greedy. Default: {own}greedy."),
        click.option("--top-k", type=TOP_K, help="Draw from this many of the likeliest tokens."),
        click.option("--top-p", type=TOP_P, help="Draw from the likeliest tokens that add up to this probability."),
        click.option("--min-p", type=MIN_P, help="Draw from tokens at least this share as likely as the likeliest."),
        click.option(
            "--repetition-penalty",
            type=REPETITION_PENALTY,
            help=f"Make tokens less likely that the text already has; 1 is off. Default: {own}off.",
        ),
        click.option("--presence-penalty", type=PENALTY, help="Lower the logit of each token that the answer has."),
        click.option("--frequency-penalty", type=PENALTY, help="Lower it once for each time that the answer has it."),
        repeatable(
            biases, "--logit-bias", type=BIAS, metavar="ID=BIAS", help="Add this to a token's logit. Repeatable."
        ),
        repeatable(list, "--ban", "banned_ids", type=TOKEN_ID, metavar="ID", help="Never draw this token. Repeatable."),
    )


MODEL_AND_BITS = join(
    MODEL,
    click.option("--bits", type=BITS, help="Run a named model in this many bits; made on first use."),
    ADAPTER,
    click.option(
        "--force", is_flag=True, help="Load it even if memory seems too small, or the adapter is another model's."
    ),
)
CHAT_TEMPLATE = click.option("--chat-template", type=NAME, metavar="FILE", help=TEMPLATE_HELP)
CACHES = join(WINDOW, KV_BITS)
CACHE_FILES = join(SAVE, LOAD)
LOOKUP = click.option(
    "--lookup", is_flag=True, help="Guess what followed the same tokens before. Only the speed changes."
)
DRAFT = click.option(
    "--draft",
    type=NAME,
    metavar="MODEL|auto",
    help="Let this smaller model guess tokens; auto takes a fitting one on this machine. Only the speed changes.",
)
SPECULATION = join(DRAFT, LOOKUP)
FORM = join(SCHEMA, REGEX, CHOICE, GRAMMAR)
SEED = click.option("--seed", type=int, help="The same seed gives the same text. Default: a new one each time.")
PLAIN = click.option(
    "--plain", is_flag=True, help="Ignore the sampling settings of the model's files and its publisher."
)
LOGPROBS = click.option(
    "--logprobs",
    type=TOP_LOGPROBS,
    metavar="N",
    help="With --json: the log-probability of each token, and of the N likeliest in its place.",
)
COMPLETIONS = click.option(
    "--completions", type=COUNT, metavar="N", help="Give N answers to the prompt, which is read once."
)
SHOW_CONFIG = click.option(
    "--show-config", is_flag=True, help="Print each option's value and where it comes from, and do nothing else."
)
