"""`elm-mlx generate`: a prompt in, its completion on stdout."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from elm_mlx import demo
from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.caches import CacheFiles, cache_options
from elm_mlx.cli.find import DRAFT_HELP, MODEL, TEMPLATE_HELP, load_with_notices, pull_draft
from elm_mlx.cli.kinds import BITS, COUNT, MIN_P, NAME, STOP, TEMPERATURE, TEXT, TOP_K, TOP_P
from elm_mlx.cli.messages import quietable, say
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.cli.wishes import settle
from elm_mlx.errors import ElmError, InvalidRequest

if TYPE_CHECKING:
    from elm_mlx.api.stream import Piece


@click.command()
@MODEL
@click.option("--bits", type=BITS, help="The variant of a named model to run; made if it is not there.")
@click.option("-p", "--prompt", type=TEXT, help="What to complete; - reads standard input, as does a pipe.")
@click.option("-n", "--max-tokens", type=COUNT, default=256, show_default=True, help="At most this many tokens.")
@click.option("--temperature", "--temp", type=TEMPERATURE, help="0 is greedy. Default: the model's own, else greedy.")
@click.option("--top-p", type=TOP_P, help="Keep the likeliest tokens that make up this share.")
@click.option("--top-k", type=TOP_K, help="Keep this many of the likeliest tokens.")
@click.option("--min-p", type=MIN_P, help="Keep tokens this share as likely as the likeliest.")
@click.option("--seed", type=int, help="The same seed gives the same text.")
@cache_options
@STOP
@click.option("--draft", type=NAME, metavar="MODEL", help=DRAFT_HELP)
@click.option("--lookup", is_flag=True, help="Propose what followed the same tokens before; for texts that copy.")
@click.option("--raw", is_flag=True, help="Complete the prompt as it is, even if the model has a chat template.")
@click.option("--chat-template", type=NAME, metavar="FILE", help=TEMPLATE_HELP)
@click.option("--force", is_flag=True, help="Load it even if the memory seems too small.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the text.")
@quietable
def command(
    model: str | None,
    bits: str | None,
    prompt: str | None,
    raw: bool,
    chat_template: str | None,
    draft: str | None,
    force: bool,
    save_cache: str | None,
    load_cache: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Complete a prompt.

    The completion goes to standard output, everything else to standard error. Without a prompt the model
    starts from nothing, and the demo from "Once upon a time". One newline at the end of piped input is not
    part of it.
    """
    asked: dict[str, Any] = {"raw": raw, "chat_template": chat_template}
    settle(refuse_contradiction, asked, "chat_template", "raw")
    files = CacheFiles(save_cache, load_cache)
    prefer_fast_blas()
    text = read_prompt(prompt)
    lm = load_with_notices(model, bits, force, asked["chat_template"], options, draft=pull_draft(draft, force))
    if text is None:
        text = demo.PROMPT if model is None else ""
    is_plain = asked["raw"] or not lm.has_chat_template
    given = text if is_plain else lm.chat_prompt([{"role": "user", "content": text}])
    files.use(lm, given, options)
    with ProgressBar("Reading the prompt", in_bytes=False) as bar:
        stream = lm.stream(given, progress=bar, **options)
        first = next(stream)  # there when the prompt has been read
    files.say_unused(stream)
    pieces = chain([first], stream)
    if as_json:
        deque(pieces, maxlen=0)
        print(json.dumps({"model": "demo" if model is None else model} | asdict(stream.completion)))
        return
    show(pieces)
    if sys.stderr.isatty():
        say(str(stream.completion.stats))


def show(pieces: Iterable[Piece]) -> None:
    """Prints the text of each piece as it comes, and ends the line, also where the model fails amid its answer."""
    try:
        for piece in pieces:
            print(piece.text, end="", flush=True)  # click.echo would take escape codes out
    except ElmError:
        print()  # what came so far stays, and the error begins a line
        raise
    print()


def refuse_contradiction(raw: bool, chat_template: str | None) -> None:
    """Raises InvalidRequest for a template that is given and not to be used."""
    if raw and chat_template:
        raise InvalidRequest("", "{raw} uses no chat template. Leave it or {chat_template} out.")


def read_prompt(option: str | None) -> str | None:
    """Reads the prompt: the option's, that of standard input where the option is - or the input a pipe, or None."""
    if option is not None and option != "-":
        return option
    nothing = None if option is None else ""
    if sys.stdin is None or (option is None and sys.stdin.isatty()):
        return nothing
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("Standard input is not UTF-8 text. Convert it first, for example with iconv.") from error
    return text.removesuffix("\n") or nothing
