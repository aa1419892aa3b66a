"""The kinds of values that options take. What a kind refuses is refused before anything is looked up, and if it stands
in the environment the refusal names the variable."""

from __future__ import annotations

import math
from typing import Any

import click

from elm_mlx.arguments import is_unicode
from elm_mlx.config.generation import MAX_TEMPERATURE, MAX_TOP_K, MOST_BIAS, MOST_PENALTY, MOST_REPETITION
from elm_mlx.config.quantization import QUANTIZATION_MODES, TARGET_BITS
from elm_mlx.config.stop_strings import check_stop_strings
from elm_mlx.config.values import MAX_MULTIPLIER
from elm_mlx.errors import InvalidRequest


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "integer"


class Number(click.FloatRange):
    """A number within bounds, which NaN is in none of."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value as a float."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("nan is not a number.", param, ctx)
        return number


class Text(click.ParamType):
    """A text, which may be empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text as it is."""
        if not is_unicode(value):
            self.fail("it holds bytes that are not UTF-8 text. Convert it first, for example with iconv.", param, ctx)
        return value


class StopText(Text):
    """A stop string: the environment gives one, blanks included."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """The whole variable is one text."""
        return [rv]


class Name(click.ParamType):
    """The name of a model, a file or a directory."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name as it is."""
        if not str(value):
            self.fail("it is empty. Perhaps it comes from a variable of the shell that is not set.", param, ctx)
        return value


class TextPath(Name):
    """The path of a text, or `true` for the text that elm-mlx brings, as a variable of the environment may say it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path as it is, or true."""
        return True if value is True or value == "true" else super().convert(value, param, ctx)


class CommaList(click.ParamType):
    """A list of values of another kind, with commas between them."""

    name = "list"

    def __init__(self, of: click.ParamType) -> None:
        self.of = of

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The values as a list."""
        words = value.split(",") if isinstance(value, str) else value
        return [self.of.convert(word, param, ctx) for word in words]


class TokenId(Whole):
    """The id of a token; in the environment several, with commas between them."""

    name = "id"

    def split_envvar_value(self, rv: str) -> list[str]:
        """The ids that stand in a variable."""
        return rv.split(",")


class Bias(click.ParamType):
    """What is added to the logit of a token, as ID=BIAS; in the environment several, with commas between them."""

    name = "bias"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text as (id, bias)."""
        if not isinstance(value, str):
            return value
        words: tuple[Any, ...] = value.partition("=")
        token, equals, bias = words
        if not equals:
            self.fail(f"{value!r} is not ID=BIAS, as in 13=-5.", param, ctx)
        return TOKEN_ID.convert(token, param, ctx), LOGIT.convert(bias, param, ctx)

    def split_envvar_value(self, rv: str) -> list[str]:
        """The biases that stand in a variable."""
        return rv.split(",")


BITS = click.Choice(list(map(str, QUANTIZATION_MODES["affine"][0])))
COUNT, NAME, TEXT = Whole(min=1), Name(), Text()
TEMPERATURE, TOP_K, MIN_P = Number(0, MAX_TEMPERATURE), Whole(0, MAX_TOP_K), Number(0, 1)
TOP_P = Number(0, 1, min_open=True)
PENALTY, LOGIT, BIAS = Number(-MOST_PENALTY, MOST_PENALTY), Number(-MOST_BIAS, MOST_BIAS), Bias()
REPETITION_PENALTY = Number(1 / MOST_REPETITION, MOST_REPETITION)
TOKEN_ID = TokenId(min=0)
# As engine.logprobs and api.cache_kind have them, which --help does without: they bring MLX.
TOP_LOGPROBS, WINDOW_SIZE = Whole(0, 20), Whole(min=16)
TARGET = Number(*TARGET_BITS)
ROPE_FACTOR = Number(0, MAX_MULTIPLIER, min_open=True)
# As convert and verify judge them, which --help does without: they bring MLX.
SHARD_GB, TEXT_TOKENS = Number(1e-6, 1e6), Whole(1, 1_000_000)
CALIBRATION_TEXT, CALIBRATION_TOKENS = TextPath(), Whole(512, 2**22)


def judge_stops(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """The stop strings that were given. Raises BadParameter, before anything is looked up."""
    try:
        return check_stop_strings(value)
    except InvalidRequest as error:
        raise click.BadParameter(error.message) from error


STOP = click.option(
    "--stop",
    type=StopText(),
    multiple=True,
    callback=judge_stops,
    help="End the answer before this text; repeatable. A newline is $'\\n' in most shells.",
)
