"""`elm-mlx generate`: a prompt in, its completion on stdout."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from elm_mlx import demo
from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.caches import CacheFiles
from elm_mlx.cli.find import load_with_notices
from elm_mlx.cli.forms import NAMES, check_form
from elm_mlx.cli.generation_options import (
    CACHE_FILES,
    CACHES,
    CHAT_TEMPLATE,
    COMPLETIONS,
    FORM,
    LOGPROBS,
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
from elm_mlx.cli.pieces import print_texts
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.cli.sections import SectionedCommand
from elm_mlx.cli.show_config import print_config
from elm_mlx.cli.wishes import settle
from elm_mlx.errors import ElmError, InvalidRequest
from elm_mlx.jobs.plain import logprobs_of

if TYPE_CHECKING:
    from elm_mlx.api import Completion, LanguageModel
    from elm_mlx.api.stream import Piece, Stream


@click.command(cls=SectionedCommand)
@MODEL_AND_BITS
@click.option("-p", "--prompt", type=TEXT, help="What to complete; - is standard input, as is a pipe without -p.")
@click.option("--raw", is_flag=True, help="Complete the prompt as it is, even if the model has a chat template.")
@CHAT_TEMPLATE
@sampling()
@SEED
@PLAIN
@max_tokens("-n", default=256, meaning="The answer has at most this many tokens.")
@STOP
@FORM
@CACHES
@CACHE_FILES
@SPECULATION
@COMPLETIONS
@LOGPROBS
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the text.")
@SHOW_CONFIG
@quietable
@parallel
def command(
    model: str | None,
    bits: str | None,
    force: bool,
    prompt: str | None,
    raw: bool,
    chat_template: str | None,
    save_cache: str | None,
    load_cache: str | None,
    completions: int | None,
    as_json: bool,
    show_config: bool,
    **options: Any,
) -> None:
    """Complete a prompt.

    The completion goes to standard output, everything else to standard error. Without a prompt the model
    starts from nothing, and the demo from "Once upon a time". A newline at the end of piped input is dropped.
    """
    asked: dict[str, Any] = {"raw": raw, "chat_template": chat_template}
    settle(refuse_contradiction, asked, "chat_template", "raw")
    prefer_fast_blas()
    files = CacheFiles(save_cache, load_cache)
    if show_config:
        print_config(model, bits, asked, options, as_json)
        return
    settle(partial(refuse_unshown, as_json), options, "logprobs")
    settle(check_form, options, *NAMES)
    text = read_prompt(prompt)
    lm = load_with_notices(model, bits, force, asked["chat_template"], options)
    if text is None:
        text = demo.PROMPT if model is None else ""
    is_plain = asked["raw"] or not lm.has_chat_template
    given = text if is_plain else lm.chat_prompt([{"role": "user", "content": text}])
    files.use(lm, given, options)
    name = "demo" if model is None else model
    if completions:
        done = lm.completions(given, completions, **options)
        show_all(name, done, as_json)
    else:
        stream = show_one(name, lm, given, options, as_json)
    if any(options.get(form) for form in NAMES):
        say_cut(done if completions else [stream.completion])
    if load_cache:
        files.say_unused(done[0] if completions else stream.completion)


def show_one(name: str, lm: LanguageModel, prompt: str | list[int], options: dict[str, Any], as_json: bool) -> Stream:
    """Prints a completion as it comes, or whole as one JSON object, and returns its stream."""
    with ProgressBar("Reading the prompt", in_bytes=False) as bar:
        stream = lm.stream(prompt, progress=bar, **options)
        first = next(stream)  # there when the prompt has been read
    pieces = chain([first], stream)
    if as_json:
        deque(pieces, maxlen=0)
        print(json.dumps({"model": name} | as_object(stream.completion)))
        return stream
    show(pieces)
    if sys.stderr.isatty():
        say(str(stream.completion.stats))
    return stream


def show_all(name: str, done: Sequence[Completion], as_json: bool) -> None:
    """Prints several completions of a prompt, a line with their number above each, or all as one JSON object."""
    if as_json:
        print(json.dumps({"model": name, "completions": [as_object(one) for one in done]}))
        return
    for number, one in enumerate(done, 1):
        print(f"--- {number} of {len(done)} ---\n{one.text}", flush=True)


def say_cut(answers: Sequence[Completion]) -> None:
    """Says so where answers in a form were cut off."""
    if cut := sum(one.finish_reason == "length" for one in answers):
        which = "The answer was" if len(answers) == 1 else f"{cut} of {len(answers)} answers were"
        say(f"{which} cut off by --max-tokens, and may lack the form. Give more, or bound what the form lets grow.")


def as_object(done: Completion) -> dict[str, Any]:
    """A completion as an object of JSON, with log-probabilities where they were asked for."""
    whole = asdict(replace(done, logprobs=None))
    del whole["logprobs"]
    return whole if done.logprobs is None else whole | {"logprobs": logprobs_of(done)}


def show(pieces: Iterable[Piece]) -> None:
    """Prints the text of each piece as it comes, and ends the line, also where the model fails amid its answer."""
    try:
        print_texts(pieces)
    except ElmError:
        print()  # what came so far stays, and the error begins a line
        raise
    print()


def refuse_contradiction(raw: bool, chat_template: str | None) -> None:
    """Raises InvalidRequest for a template that is given and not to be used."""
    if raw and chat_template:
        raise InvalidRequest("", "{raw} uses no chat template. Leave it or {chat_template} out.")


def refuse_unshown(as_json: bool, logprobs: int | None = None, **_: object) -> None:
    """Raises InvalidRequest for log-probabilities where text alone is printed."""
    if logprobs is not None and not as_json:
        raise InvalidRequest("Plain text shows no log-probabilities.", "Give {as_json}, or leave {logprobs} out.")


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
