"""`elm-mlx bench`: how fast a model runs here, beside mlx-lm if asked."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from elm_mlx.bench.shapes import SHAPES
from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.find import BITS, pull_directory
from elm_mlx.cli.messages import quietable, say
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.demo import demo_directory
from elm_mlx.errors import InvalidRequest

if TYPE_CHECKING:
    from elm_mlx.config import ModelConfig


class CommaList(click.ParamType):
    """A list of values of another type, with commas between them."""

    name = "list"

    def __init__(self, of: click.ParamType) -> None:
        self.of = of

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The values as a list."""
        words = value.split(",") if isinstance(value, str) else value
        return [self.of.convert(word, param, ctx) for word in words]


Choices = Sequence[str | None]
Subjects = Generator[tuple[str, Path], None, None]
COUNTS = CommaList(click.IntRange(min=0))


@click.command()
@click.option(
    "--model",
    "models",
    type=CommaList(click.STRING),
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
    default="512",
    show_default=True,
    metavar="N,...",
    help="Read prompts of so many tokens; 0 for none.",
)
@click.option(
    "-n",
    "--n-gen",
    "generations",
    type=COUNTS,
    default="128",
    show_default=True,
    metavar="N,...",
    help="Decode so many tokens; 0 for none.",
)
@click.option(
    "-d",
    "--n-depth",
    "depths",
    type=COUNTS,
    default="0",
    show_default=True,
    metavar="N,...",
    help="With so many tokens in the cache before.",
)
@click.option(
    "-r",
    "--repetitions",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Measure every test so often, after a warm-up.",
)
@click.option("--compare", type=click.Choice(["mlx-lm"]), help="Run this program too, in turn, in its own process.")
@click.option(
    "--cpu-policy",
    type=click.Choice(["auto", "plain", "compiled"]),
    help="On MLX's CPU backend compute as is fastest there, as stored, or as stored and compiled as on a GPU. "
    "Default: auto, with --compare compiled.",
)
@click.option("--force", is_flag=True, help="Measure it even if the memory seems too small.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every sample.")
@quietable
def command(
    models: list[str] | None,
    shapes: list[str] | None,
    bits: list[str] | None,
    dtype: str | None,
    prompts: list[int],
    generations: list[int],
    depths: list[int],
    repetitions: int,
    compare: str | None,
    cpu_policy: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure how fast a model reads prompts (pp512: tokens per second), decodes (tg128, tg128 @ d2048) and answers
    first (ttft16).

    Neither text nor sampling is in the times, no run finds anything of another in a cache, and token ids are random
    and everywhere the same. "MB/t" is what a token reads, "share" that of what this machine could read in the time,
    "host ms" the processor time that a token takes of the host. The ratio is mlx-lm's time over ours, with the least
    and the greatest. docs/benchmarks.md has the method.
    """
    prefer_fast_blas()
    from elm_mlx.bench.cases import cases, check_context  # here, as --help needs no MLX
    from elm_mlx.bench.measure import Series, bench
    from elm_mlx.bench.report import text

    if shapes and is_typed("models"):
        raise InvalidRequest("--random makes its own model. Leave it or --model out.")
    if not shapes and is_typed("dtype"):
        raise InvalidRequest("--dtype is the type of random weights. Give --random, too, or leave it out.")
    tests = cases(prompts, generations, depths)
    typed: Choices = bits if bits and is_typed("bits") else [None]
    for config in configs_of_shapes(shapes) if shapes else configs_here(models, typed):
        check_context(tests, config)  # a mistake in the last one is reported before the first is measured
    subjects = (
        make_each(shapes, bits or [None], dtype, force)
        if shapes
        else find_each(models or [None], bits or [None], force)
    )
    reports: deque[dict[str, Any]] = deque(maxlen=1)
    try:
        with closing(subjects), ProgressBar("Measuring", in_bytes=False) as bar:
            reports.extend(bench(subjects, Series(tests, repetitions, cpu_policy, bool(compare), force), bar))
    finally:  # after Ctrl-C, too, what was measured is printed
        for report in reports:
            for notice in {model["notice"] for model in report["models"]} - {None}:
                say(notice)
            click.echo(json.dumps(report) if as_json else text(report))


def is_typed(option: str) -> bool:
    """Whether the option was typed with the command, and does not come from the environment."""
    return click.get_current_context().get_parameter_source(option) == ParameterSource.COMMANDLINE


def configs_of_shapes(shapes: Sequence[str]) -> list[ModelConfig]:
    """The configurations that random models of these shapes will have."""
    from elm_mlx.config import config_from_dict  # here, as --help needs no configuration

    return [config_from_dict(SHAPES[shape]) for shape in shapes]


def configs_here(models: Sequence[str] | None, bits: Choices) -> list[ModelConfig]:
    """The configurations of those models that are on this machine. Raises as `locate`."""
    from elm_mlx.library.local import locate  # here, as --help needs no MLX
    from elm_mlx.store.load import read_config

    if models is None:
        return [read_config(pull_directory(None, few, force=False) or demo_directory()) for few in bits]
    places = [locate(model, int(few) if few else None) for model, few in product(models, bits)]
    return [read_config(place.path) for place in places if place]


def make_each(shapes: Sequence[str], bits: Choices, dtype: str | None, force: bool) -> Subjects:
    """Makes random models and gives their (name, directory). Each is removed before the next one is made."""
    from elm_mlx.bench.random_model import random_model  # here, as --help needs no MLX

    for shape, few in product(shapes, bits):
        with random_model(shape, int(few) if few else None, dtype, force) as directory:
            yield shape, directory


def find_each(models: Choices, bits: Choices, force: bool) -> Subjects:
    """Finds models and gives their (name, directory). Each is pulled first where it is not on this machine."""
    for model, few in product(models, bits):
        yield model or "demo", pull_directory(model, few, force) or demo_directory()
