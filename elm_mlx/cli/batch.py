"""`elm-mlx batch`: a file of requests in, a file of answers out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.find import load_with_notices
from elm_mlx.cli.generation_options import (
    CACHES,
    CHAT_TEMPLATE,
    MODEL_AND_BITS,
    PLAIN,
    SPECULATION,
    max_tokens,
    sampling,
)
from elm_mlx.cli.kinds import NAME, STOP, Whole
from elm_mlx.cli.messages import quietable, say, tell
from elm_mlx.cli.parallel import parallel
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.cli.sections import SectionedCommand
from elm_mlx.cli.wishes import settle
from elm_mlx.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from elm_mlx import LanguageModel
    from elm_mlx.jobs.answering import Job
    from elm_mlx.jobs.results import Printed, Results

STDOUT = "-"


@click.command(cls=SectionedCommand)
@click.argument("requests", type=NAME, metavar="IN.jsonl|-")
@click.option("-o", "--output", type=NAME, required=True, metavar="OUT.jsonl|-", help="Where answers go; - is stdout.")
@MODEL_AND_BITS
@click.option("--concurrency", type=Whole(1, 256), default=8, show_default=True, help="Answer this many together.")
@click.option("--retry-errors", is_flag=True, help="Ask again where OUT.jsonl has an error, and replace that line.")
@click.option("--raw", is_flag=True, help="Complete prompts as they are, even if the model has a chat template.")
@click.option("--with-prompts", is_flag=True, help="Write each request beside its answer, for `elm-mlx train`.")
@CHAT_TEMPLATE
@sampling()
@click.option("--seed", type=int, default=0, show_default=True, help="Each line's seed is made of this and its id.")
@PLAIN
@max_tokens("-n", default=256, meaning="At most this many tokens.")
@STOP
@CACHES
@SPECULATION
@quietable
@parallel
def command(
    requests: str,
    output: str,
    model: str | None,
    bits: str | None,
    concurrency: int,
    retry_errors: bool,
    seed: int,
    raw: bool,
    with_prompts: bool,
    chat_template: str | None,
    force: bool,
    **options: Any,
) -> None:
    """Answer a file of requests, a JSON object a line.

    A line has a "prompt" or "messages", an "id", and options such as "max_tokens"; or it is a line of OpenAI's batch
    files, with "custom_id" and "body". The options below count where a line has none of its own. docs/batch.md has
    both formats.

    Each answer is written as soon as it is whole. After Ctrl-C, a crash or a full disk give the same command again: it
    skips what OUT.jsonl has. A request that fails becomes a line with an error, and the exit code is 1.
    """
    asked: dict[str, Any] = {"output": output, "retry_errors": retry_errors}
    settle(refuse_retrying_stdout, asked, "retry_errors")
    again: bool = asked["retry_errors"]
    prefer_fast_blas()
    from elm_mlx.jobs.answering import Job, Way
    from elm_mlx.jobs.origin import Origin
    from elm_mlx.jobs.source import open_source

    with open_source(requests) as source, results_in(output) as results:
        index = source.index()
        results.refuse_others(index.lines.keys(), again)
        done = {key for key, failed in results.failed.items() if not (failed and again)}
        todo = index.lines.keys() - done
        if todo:
            lm = load_with_notices(model, bits, force, chat_template, options, rows=concurrency)
            refuse_chats(lm, len(index.chats & todo))
        results.begin(again)
        if todo:
            way = Way(Origin("demo" if model is None else model, seed), options, raw, with_prompts)
            answer(Job(lm, way, source, todo, results), concurrency, output)
        say_what_was_there(len(done))
        refuse_errors(sum(results.failed.values()), output)


def refuse_retrying_stdout(output: str, retry_errors: bool) -> None:
    """Raises InvalidRequest where errors are to be replaced that nobody can find again."""
    if retry_errors and output == STDOUT:
        raise InvalidRequest("", "{retry_errors} means nothing on standard output. Name a file as {output}.")


def results_in(output: str) -> Results | Printed:
    """Where answers go: a file, or standard output."""
    from elm_mlx.jobs.results import Printed, Results

    return Printed() if output == STDOUT else Results(output)


def refuse_chats(lm: LanguageModel, chats: int) -> None:
    """Raises NotFound where some requests are chats, and the model has no chat template for them."""
    if chats and not lm.has_chat_template:
        raise NotFound(f"This model has no chat template. Requests with messages: {chats:,}.",
                       "Give a {chat_template}, or a model that has one.")  # fmt: skip


def answer(job: Job, concurrency: int, output: str) -> None:
    """Answers a job's requests and says how it went. Where it is cut short, it says how to go on."""
    import asyncio

    begun, tally = time.perf_counter(), job.tally
    try:
        with ProgressBar("Answering", in_bytes=False) as bar:
            asyncio.run(job.run(concurrency, bar))
    except BaseException:
        if output != STDOUT:
            tell(f"Lines written: {tally.lines:,} of {len(job.todo):,}. The same command goes on from there.")
        raise
    spent = time.perf_counter() - begun
    rate = f", {tally.tokens / spent:,.1f} tokens/s" if tally.tokens else ""
    say(f"Lines written: {tally.lines:,}; {tally.tokens:,} tokens in {spent:,.1f} s{rate}.")


def say_what_was_there(count: int) -> None:
    """Says how many lines needed no answer."""
    if count:
        say(f"Lines written before: {count:,}.")


def refuse_errors(count: int, output: str) -> None:
    """Ends the command with exit code 1 where lines hold errors, those of earlier runs too."""
    if count:
        how = "" if output == STDOUT else " --retry-errors asks these again."
        tell(f"Lines with an error: {count:,}.{how}")
        raise click.exceptions.Exit(1)
