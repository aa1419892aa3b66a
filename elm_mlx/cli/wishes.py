"""Who wins: what is typed, then the environment, then the model's own files, then the default.

An option in the environment is a standing wish, for every command and every model. So one that means nothing here is no
mistake: it is ignored, with a note. The same option typed is an error. The library knows what means nothing, and its
refusals name the options in their advice (errors.ARGUMENT); only this module knows who gave them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from elm_mlx.cli.messages import say
from elm_mlx.errors import ARGUMENT, ElmError, InvalidRequest

T = TypeVar("T")
DROPPED = "elm_mlx.dropped"  # in click's context: the names of the wishes that a note was printed of
NOTHING = "It has no effect with this model and these options."


def is_wish(option: str) -> bool:
    """Whether this command's option, by its name in Python, comes from the environment and was not typed."""
    return click.get_current_context().get_parameter_source(option) == ParameterSource.ENVIRONMENT


def variable(option: str) -> str:
    """The variable of the environment that an option of this command reads."""
    return next(str(one.envvar) for one in click.get_current_context().command.params if one.name == option)


def origin(option: str) -> str | None:
    """Where the value of an option of this command comes from, in words; None where it is the default, or a wish that
    was dropped."""
    context = click.get_current_context()
    if context.get_parameter_source(option) == ParameterSource.COMMANDLINE:
        return "option"
    if is_wish(option) and option not in context.meta.get(DROPPED, ()):
        return f"environment, {variable(option)}"
    return None


def settle(call: Callable[..., T], options: dict[str, Any], *yielding: str) -> T:
    """Returns `call(**options)`. Where that refuses options by name, and one of them is a wish, the first such of the
    `yielding` ones is dropped from `options` (its value becomes None, or False), and `call` is asked again.

    Raises what `call` raises of options that were typed.
    """
    while True:
        try:
            return call(**options)
        except InvalidRequest as error:
            named = {name for name, _ in ARGUMENT.findall(error.advice)}
            wishes = (name for name in yielding if name in named and options[name] and is_wish(name))
            if not (wish := next(wishes, None)):
                raise
            drop(options, wish, error.message)


def drop(options: dict[str, Any], wish: str, why: str) -> None:
    """Takes a wish out of the options, and says so, once a command."""
    options[wish] = False if options[wish] is True else None
    said = click.get_current_context().meta.setdefault(DROPPED, set())
    if wish not in said:
        said.add(wish)
        name = variable(wish)
        say(f"{name}={os.environ[name]:.40} is ignored. {why or NOTHING}")


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Puts the variable of the environment that an option comes from, if it does, before the message of an error."""
    try:
        yield
    except ElmError as error:
        if not is_wish(option):
            raise
        raise type(error)(f"{variable(option)}: {error.message}", error.advice) from error
