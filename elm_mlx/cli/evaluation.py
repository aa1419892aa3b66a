"""`elm-mlx eval`: how a model answers the questions of tasks, and how two models differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.find import load_with_notices
from elm_mlx.cli.generation_options import CACHES, CHAT_TEMPLATE, MODEL_AND_BITS
from elm_mlx.cli.kinds import COUNT, NAME, CommaList, Whole
from elm_mlx.cli.messages import one_line, quietable, say, tell
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.errors import InvalidRequest

if TYPE_CHECKING:
    from elm_mlx import LanguageModel
    from elm_mlx.evaluate import Settings
    from elm_mlx.evaluate.compare import Difference


@click.command()
@click.option(
    "-t", "--tasks", type=CommaList(NAME), metavar="TASK,...", help="lm-eval's tasks, suites, or YAML files of tasks."
)
@MODEL_AND_BITS
@click.option("--few-shot", type=Whole(0, 1000), help="Examples before each question. Default: as the task says.")
@click.option("--limit", type=COUNT, help="Ask at most this many questions of each task.")
@click.option("--chat", is_flag=True, help="Ask through the model's chat template.")
@CHAT_TEMPLATE
@click.option("--seed", type=int, default=1234, show_default=True, help="Chooses the examples; lm-eval's own default.")
@CACHES
@click.option("--answers", type=NAME, metavar="FILE", help="Keep answers in this file. Default: one of elm-mlx's own.")
@click.option("--fresh", is_flag=True, help="Use no answers of earlier runs, and keep none of this one.")
@click.option("--compare", type=NAME, nargs=2, metavar="A.json B.json", help="Compare two results; asks no model.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as one JSON object, each question too.")
@quietable
def command(
    tasks: list[str] | None,
    model: str | None,
    bits: str | None,
    few_shot: int | None,
    limit: int | None,
    chat: bool,
    chat_template: str | None,
    seed: int,
    answers: str | None,
    fresh: bool,
    compare: tuple[str, str] | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Score a model on lm-eval's tasks: how many of their questions it gets right.

    A task is one that lm-eval brings (hellaswag), a suite (openelm-zero-shot, openelm-leaderboard), or a YAML file
    with its questions beside it; docs/evaluation.md says more. After Ctrl-C or a crash give the same command again: it
    continues where it stopped. --compare takes two results that --json has printed, and compares them question by
    question, with intervals.
    """
    if compare:
        refuse_beside_compare(tasks)
        print_differences(*compare, as_json)
        return
    if not tasks:
        raise InvalidRequest("No task is named.", "Give {tasks}, such as hellaswag or openelm-zero-shot.")
    if answers and fresh:
        raise InvalidRequest("", "{fresh} keeps no answers, and {answers} names a file for them. Leave one out.")
    prefer_fast_blas()
    from elm_mlx.evaluate import Settings, evaluate  # here, as --help needs no MLX
    from elm_mlx.evaluate.tasks import check_tasks

    check_tasks(tasks, few_shot)  # before a model is fetched
    with load_with_notices(model, bits, force, chat_template, options) as lm:
        settings = Settings(few_shot, limit, chat or bool(chat_template), seed, **options)
        with ProgressBar("Asking", in_bytes=False) as bar, resumable(not fresh):
            place = None if fresh else where(answers, lm, settings)
            done = evaluate(lm, tasks, settings, answers=place, progress=bar)
    say_counts(done)
    if as_json:
        click.echo(json.dumps({"name": Path(model).name if model else "demo"} | done))
        return
    for line in rows(done):
        click.echo(one_line(line))


def where(answers: str | None, lm: LanguageModel, settings: Settings) -> Path:
    """The file that keeps answers."""
    from elm_mlx.evaluate.run import default_answers

    return Path(answers) if answers else default_answers(lm, settings)


@contextmanager
def resumable(kept: bool) -> Iterator[None]:
    """Says how to go on where an evaluation is cut short whose answers are kept."""
    try:
        yield
    except KeyboardInterrupt:
        if kept:
            tell("The answers so far are kept. The same command goes on from there.")
        raise


def say_counts(done: dict[str, Any]) -> None:
    """Says what a person should know of how the answers came."""
    counts = done["answers"]
    if counts["remembered"]:
        say(f"Answers known from earlier runs: {counts['remembered']:,}.")
    if counts["cut"]:
        say(f"Texts longer than the model's context, which lost their beginning: {counts['cut']:,}.")


def rows(done: dict[str, Any]) -> Iterator[str]:
    """The metrics for a person, a line each."""
    width = max(map(len, [*done["tasks"], *done["groups"]]))
    for name, task in done["tasks"].items():
        asked = f"{task['questions']:,} questions, {task['few_shot']} examples before each"
        for metric, found in task["metrics"].items():
            error = f" ± {found['error']:.4f}" if found["error"] is not None else ""
            yield f"{name:<{width}}  {metric:<10}  {found['value']:.4f}{error}  ({asked})"
    for name, group in done["groups"].items():
        for metric, value in group["metrics"].items():
            yield f"{name:<{width}}  {metric:<10}  {value:.4f}"


def refuse_beside_compare(tasks: list[str] | None) -> None:
    """Raises InvalidRequest where tasks are to be asked and results to be compared."""
    if tasks:
        raise InvalidRequest("", "{compare} reads results that exist, and {tasks} asks a model. Leave one out.")


def print_differences(a: str, b: str, as_json: bool) -> None:
    """Prints how two results differ."""
    from dataclasses import asdict

    from elm_mlx.evaluate.compare import compare
    from elm_mlx.evaluate.result_files import read_result

    found = compare(read_result(Path(a)), read_result(Path(b)))
    if as_json:
        click.echo(json.dumps({"a": Path(a).name, "b": Path(b).name, "differences": [asdict(one) for one in found]}))
        return
    for one in found:
        click.echo(one_line(in_words(one)))


def in_words(one: Difference) -> str:
    """A difference in a line."""
    told = f"{one.task}  {one.metric}  A {one.a:.4f}  B {one.b:.4f}"
    if one.difference is None:
        return f"{told}  no interval: it is no mean over questions"
    told += f"  B - A {one.difference:+.4f}{' bits' if one.in_bits else ''}"
    if one.low is None or one.high is None:
        return f"{told}  no interval: too few questions"
    told += f", 95 % between {one.low:+.4f} and {one.high:+.4f}"
    if one.chance is not None:
        told += f"; only B right: {one.better:,}, only A: {one.worse:,}, by chance alone: {one.chance:.2g}"
    return f"{told}  (may be chance)" if one.is_chance else told
