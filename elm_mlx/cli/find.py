"""Turns a --model argument into a directory, which is pulled where it is not here, and into a loaded model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

import elm_mlx
from elm_mlx import demo
from elm_mlx.cli.messages import say, with_flags
from elm_mlx.cli.progress import ProgressBar, bars
from elm_mlx.config.quantization import QUANTIZATION_MODES
from elm_mlx.errors import BadCheckpoint, InvalidRequest
from elm_mlx.library.names import known_models, parse_name

if TYPE_CHECKING:
    from elm_mlx import LanguageModel

DEMO_NOTICE = f"No --model given: this is the built-in demo, {demo.ABOUT}."
UNCONFIRMED = "zephyr is perhaps the format of OpenELM-Instruct; nobody has confirmed it."
TEMPLATE_HELP = 'Use the chat template in this file, or "zephyr": perhaps OpenELM-Instruct\'s, unconfirmed.'
BITS = click.Choice(list(map(str, QUANTIZATION_MODES["affine"][0])))


def complete_names(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The completions that a shell offers for the beginning of a name: known models, else directories."""
    known = [CompletionItem(name) for name in known_models() if name.startswith(begun)]
    return known or [CompletionItem(begun, type="dir")]


MODEL = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    shell_complete=complete_names,
    help="A name, OWNER/NAME or a directory. Default: the built-in demo.",
)


def load_with_notices(model: str | None, bits: str | None, force: bool, chat_template: str | None) -> LanguageModel:
    """Loads a model, and says what a person should know of it."""
    with repair_advice(model, bits):
        directory = pull_directory(model, bits, force)
        with ProgressBar("Loading", in_bytes=True) as bar:
            lm = elm_mlx.load(directory, progress=bar, force=force)
    if chat_template:
        lm.use_chat_template(chat_template)
    unconfirmed = UNCONFIRMED if chat_template == "zephyr" else None
    for notice in (DEMO_NOTICE if model is None else None, lm.notice, unconfirmed):
        if notice:
            say(notice)
    return lm


@contextmanager
def repair_advice(model: str | None, bits: str | None) -> Iterator[None]:
    """Adds to the error of a damaged model how to repair it, where it was fetched by its name."""
    try:
        yield
    except BadCheckpoint as error:
        if model is None or isinstance(parse_name(model), Path):
            raise
        more = f" --bits {bits}" if bits else ""
        raise BadCheckpoint(
            f"{with_flags(error)} `elm-mlx pull {model}{more} --verify` tells what is damaged here, and mends it."
        ) from error


def pull_directory(model: str | None, bits: str | None, force: bool) -> Path | None:
    """The directory of a model, which is pulled where it is not here; None for the demo. Says repository and commit."""
    has_bits_already = model is None or isinstance(parse_name(model), Path)
    if has_bits_already and click.get_current_context().get_parameter_source("bits") == ParameterSource.ENVIRONMENT:
        bits = None  # a preference for named models, not typed with this command
    if model is None:
        if bits:
            raise InvalidRequest("--bits picks a variant of a named model; the built-in demo has 8. Give --model, too.")
        return None
    with bars("Fetching", "Converting") as (fetching, converting):
        number = int(bits) if bits else None
        found = elm_mlx.pull(model, number, fetching=fetching, converting=converting, say=say, force=force)
    if found.repository and found.commit:
        say(f"{found.repository.name} at commit {found.commit[:12]}, in {found.path}")
    return found.path
