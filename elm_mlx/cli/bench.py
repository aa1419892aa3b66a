"""`elm-mlx bench`: how fast a model runs here, beside mlx-lm if asked."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.bench.shapes import SHAPES
from elm_mlx.cli.adapter import ADAPTER, judge_adapter, parse_adapter
from elm_mlx.cli.bench_models import Measured, choose_models, choose_shapes, find_each, make_each
from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.find import pull_draft, refuse_idle, yield_temperature
from elm_mlx.cli.generation_options import CACHES, SPECULATION, sampling
from elm_mlx.cli.kinds import BITS, COUNT, NAME, CommaList, Whole
from elm_mlx.cli.messages import quietable, say
from elm_mlx.cli.parallel import kind_here, parallel
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.cli.sections import SectionedCommand
from elm_mlx.cli.wishes import drop, is_wish, settle
from elm_mlx.config.generation import Sampling
from elm_mlx.errors import InvalidRequest

if TYPE_CHECKING:
    from elm_mlx.bench.cases import Case, Together
    from elm_mlx.bench.measure import Series
    from elm_mlx.config import ModelConfig


USUAL_PROMPT, USUAL_ANSWER = 512, 128  # tokens
COUNTS = CommaList(Whole(min=0))


@click.command(cls=SectionedCommand)
@click.option(
    "--model",
    "models",
    type=CommaList(NAME),
    metavar="MODEL,...",
    help="Names, OWNER/NAME or directories. Default: the built-in demo.",
)
@click.option(
    "--random",
    "shapes",
    type=CommaList(click.Choice(list(SHAPES))),
    metavar="SHAPE,...",
    help=f"Random weights of these shapes instead: {', '.join(SHAPES)}.",
)
@click.option("--bits", type=CommaList(BITS), metavar="BITS,...", help="Quantized to these bits.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="The type of random weights. Default: bfloat16, of the two narrow shapes float32.",
)
@click.option(
    "-p",
    "--n-prompt",
    "prompts",
    type=COUNTS,
    default=str(USUAL_PROMPT),
    show_default=True,
    metavar="N,...",
    help="Read prompts of N tokens; 0 for none.",
)
@click.option(
    "-n",
    "--n-gen",
    "generations",
    type=COUNTS,
    default=str(USUAL_ANSWER),
    show_default=True,
    metavar="N,...",
    help="Decode N tokens; 0 for none.",
)
@click.option(
    "-d",
    "--n-depth",
    "depths",
    type=COUNTS,
    default="0",
    show_default=True,
    metavar="N,...",
    help="Start with N tokens in the cache.",
)
@click.option(
    "-b",
    "--batch",
    type=CommaList(COUNT),
    metavar="N,...",
    help="Answer N requests together instead: prompts of -p tokens are read, then -n tokens decoded for each.",
)
@click.option(
    "-r",
    "--repetitions",
    type=COUNT,
    default=5,
    show_default=True,
    help="Run every test this many times, after a warm-up.",
)
@click.option("--compare", type=click.Choice(["mlx-lm"]), help="Run this program, too, in turns, in its own process.")
@click.option(
    "--cpu-policy",
    type=click.Choice(["auto", "plain", "compiled"]),
    help="On MLX's CPU backend compute as is fastest there, as stored, or as stored and compiled as on a GPU. "
    "Default: auto, with --compare compiled.",
)
@click.option(
    "--submit",
    type=click.Choice(["early", "late", "auto"]),
    default="auto",
    show_default=True,
    help="Hand each step to the device before the tokens of the step before are read, after it, or as is faster.",
)
@sampling(own="")
@CACHES
@SPECULATION
@ADAPTER
@click.option("--force", is_flag=True, help="Measure it even if the memory seems too small.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every sample.")
@quietable
@parallel
def command(
    models: list[str] | None,
    shapes: list[str] | None,
    bits: list[str] | None,
    dtype: str | None,
    prompts: list[int],
    generations: list[int],
    depths: list[int],
    batch: list[int] | None,
    repetitions: int,
    compare: str | None,
    cpu_policy: str | None,
    submit: str,
    force: bool,
    as_json: bool,
    **choice: Any,
) -> None:
    """Measure how fast a model reads prompts (pp512: tokens per second), decodes (tg128, tg128 @ d2048) and answers
    first (ttft16).

    Token ids are random, the same on every machine, and no run finds those of another in a cache. Tokenizing is not
    timed, and a model's own sampling settings do not count. "MB/t" is what a token reads; "share" is how much of this
    machine's bandwidth that is; "host ms" is the processor time that a token takes on the host. A ratio is mlx-lm's
    time over ours: the median, then the least and the greatest. docs/benchmarks.md has the method.

    With -b the table is that of llama.cpp's batched bench: PP ids of a prompt, TG tokens of an answer, B requests
    together, S_PP and S_TG tokens per second of all of them.
    """
    prefer_fast_blas()
    from elm_mlx.bench.measure import Series  # here, as --help needs no MLX

    asked: dict[str, Any] = {"models": models, "shapes": shapes, "dtype": dtype, "cpu_policy": cpu_policy}
    settle(refuse_contradictions, asked, "models", "shapes", "dtype")
    if compare and cpu_policy == "auto" and is_wish("cpu_policy"):  # typed, it compares what is stored in float32
        drop(asked, "cpu_policy", "Beside mlx-lm both compute as the weights are stored.")
    judge_adapter(choice["adapter"])
    settle(partial(refuse_random_draft, asked["shapes"]), choice, "draft")
    settle_choice(choice, compare)
    given = {"depths": depths, "prompts": prompts, "generations": generations, "batch": batch}
    settle(partial(plan_tests, []), given, *given)
    settle(refuse_reading_deep, given, "depths", "prompts")
    shapes = asked["shapes"]
    wanted, configs = choose_shapes(shapes, bits) if shapes else choose_models(asked["models"], bits)
    tests = settle(partial(plan_tests, configs), given, *given)
    settle(partial(check_windows, configs), choice, "window")
    subjects = make_each(wanted, asked["dtype"], force) if shapes else find_each(wanted, force)
    draft = pull_draft(choice.pop("draft"), force)
    adapter = parse_adapter(typed)[1] if (typed := choice.pop("adapter")) else None
    options: Any = {name: value for name, value in choice.items() if value is not None and value is not False}
    series = Series(tests, repetitions, asked["cpu_policy"], submit, bool(compare), force, options, draft, adapter,
                    kind_here())  # fmt: skip
    print_report(subjects, series, as_json)


def print_report(subjects: Measured, series: Series, as_json: bool) -> None:
    """Measures, and prints the report; after Ctrl-C, too, of what was measured until then."""
    from elm_mlx.bench.measure import bench  # here, as --help needs no MLX
    from elm_mlx.bench.report import text

    reports: deque[dict[str, Any]] = deque(maxlen=1)
    try:
        with closing(subjects), ProgressBar("Measuring", in_bytes=False) as bar:
            reports.extend(bench(subjects, series, bar))
    finally:
        for report in reports:
            for notice in {model["notice"] for model in report["models"]} - {None}:
                say(notice)
            click.echo(json.dumps(report) if as_json else text(report))


def refuse_contradictions(
    models: Sequence[str] | None, shapes: Sequence[str] | None, dtype: str | None, **_: object
) -> None:
    """Raises InvalidRequest for options of models and of random ones together."""
    if shapes and models:
        raise InvalidRequest("", "{shapes} makes its own model. Leave it or {models} out.")
    if dtype and not shapes:
        raise InvalidRequest("", "{dtype} is the type of random weights. Give {shapes}, too, or leave it out.")


def refuse_random_draft(shapes: Sequence[str] | None, draft: str | None, **_: object) -> None:
    """Raises InvalidRequest for a draft of random weights, which would never propose what they say."""
    if shapes and draft:
        raise InvalidRequest("A draft cannot guess the tokens of random weights.", "Leave {draft} or {shapes} out.")


def settle_choice(choice: dict[str, Any], compare: str | None) -> None:
    """Drops wishes for sampling, caches and proposals that mean nothing here. Raises InvalidRequest where that is so of
    what was typed."""
    yield_temperature(choice)
    settle(partial(refuse_comparing, compare), choice, *choice)
    settle(check_greedy, choice, *(name for name in choice if name != "temperature"))


def check_greedy(draft: str | None, **choice: Any) -> None:
    """Raises InvalidRequest for options that mean nothing, or not where decoding is greedy without them."""
    from elm_mlx.api.options import sampling_for  # here, as --help needs no MLX

    refuse_idle(draft, choice["lookup"])
    options: Any = choice
    sampling_for(Sampling(), options)


def refuse_comparing(compare: str | None, **choice: Any) -> None:
    """Raises InvalidRequest for options beside mlx-lm, which is measured with greedy decoding and a cache of floats."""
    given = [f"{{{name}}}" for name, value in choice.items() if value]
    if compare and given:
        raise InvalidRequest(f"{compare} is measured with greedy decoding, a cache of floats, and a token a step.",
                             f"Leave {{compare}} or {', '.join(given)} out.")  # fmt: skip


def refuse_reading_deep(depths: list[int] | None, prompts: list[int] | None, **_: object) -> None:
    """Raises InvalidRequest for prompts that several ranks would read from a depth on: they read one whole."""
    if kind_here() and any(depths or []) and any(prompts or []):
        raise InvalidRequest("Several ranks read only whole prompts, none that begins at a depth.",
                             "Give {prompts=0} to decode at depths, or leave {depths} out.")  # fmt: skip


def check_windows(configs: Sequence[ModelConfig], window: int | None, **_: object) -> None:
    """Raises InvalidRequest for a window that is larger than the context of one of the models."""
    from elm_mlx.api.cache_kind import cache_kind  # here, as --help needs no MLX

    for config in configs:
        cache_kind({"window": window}, config.context_length)


def plan_tests(
    configs: Sequence[ModelConfig],
    depths: list[int] | None,
    prompts: list[int] | None,
    generations: list[int] | None,
    batch: list[int] | None,
) -> list[Case | Together]:
    """The tests to run. Raises InvalidRequest where there are none, or one of the models has no room for one: a mistake
    in the last is reported before the first is measured."""
    from elm_mlx.bench.cases import cases, check_context, together  # here, as --help needs no MLX

    prompts, generations = prompts or [USUAL_PROMPT], generations or [USUAL_ANSWER]
    if batch and any(depths or []):
        raise InvalidRequest("", "{batch} is of requests that begin with their prompts. Leave {depths} out, or at 0.")
    tests: list[Case | Together] = []
    tests += together(prompts, generations, batch) if batch else cases(prompts, generations, depths or [0])
    for config in configs:
        check_context(tests, config)
    return tests
