"""A --model argument to a directory, fetched and converted on the way if it must be, and to a loaded model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

import elm_mlx
from elm_mlx import demo
from elm_mlx.cli.messages import say
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.errors import BadCheckpoint, InvalidRequest
from elm_mlx.quantization import QUANTIZATION_MODES
from elm_mlx.store import registry

if TYPE_CHECKING:
    from elm_mlx import LanguageModel

DEMO_NOTICE = f"No --model given: this is the built-in demo, {demo.ABOUT}."
UNCONFIRMED = "zephyr is perhaps the format of OpenELM-Instruct; nobody has confirmed it."
TEMPLATE_HELP = 'Use the chat template in this file, or "zephyr": perhaps OpenELM-Instruct\'s, unconfirmed.'
BITS = click.Choice(list(map(str, QUANTIZATION_MODES["affine"][0])))


def load(model: str | None, bits: str | None, force: bool, chat_template: str | None) -> LanguageModel:
    """The model, ready; says what a person should know of it."""
    directory = find(model, bits, force)
    with ProgressBar("Loading", in_bytes=True) as bar, advising(model):
        lm = elm_mlx.load(directory, progress=bar, force=force)
    if chat_template:
        lm.use_chat_template(chat_template)
    unconfirmed = UNCONFIRMED if chat_template == "zephyr" else None
    for notice in (DEMO_NOTICE if model is None else None, lm.notice, unconfirmed):
        if notice:
            say(notice)
    return lm


@contextmanager
def advising(model: str | None) -> Iterator[None]:
    """Names the way to mend a model that was fetched and is damaged."""
    try:
        yield
    except BadCheckpoint as error:
        if model and not isinstance(registry.parse(model), Path):
            raise BadCheckpoint(f"{error} `elm-mlx pull {model} --verify` fetches what is damaged.") from error
        raise


def find(model: str | None, bits: str | None, force: bool) -> Path | None:
    """Where the model lies; None for the demo. Says once which repository and commit it is."""
    if model is None:
        if bits:
            raise InvalidRequest("--bits picks a variant of a named model; the built-in demo has 8. Give --model, too.")
        return None
    with ProgressBar("Fetching", in_bytes=True) as fetching, ProgressBar("Converting", in_bytes=True) as converting:
        number = int(bits) if bits else None
        found = elm_mlx.pull(model, number, fetching=fetching, converting=converting, say=say, force=force)
    if found.repository and found.commit:
        say(f"{found.repository.name} at commit {found.commit[:12]}, in {found.path}")
    return found.path
