"""The option that names an adapter, and loading it beside a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.cli.kinds import NAME
from elm_mlx.cli.wishes import naming

if TYPE_CHECKING:
    from elm_mlx import LanguageModel

ADAPTER = click.option(
    "--adapter",
    type=NAME,
    metavar="[NAME=]PATH",
    help="Answer with this LoRA or DoRA: a directory that elm-mlx, mlx-lm or PEFT wrote.",
)


def parse_adapter(typed: str) -> tuple[str, Path]:
    """The name and the directory of an adapter; without a name it is called as its directory is. A text that is a
    directory as a whole names no name."""
    name, equals, path = typed.partition("=")
    if not (equals and name and path) or "/" in name or Path(typed).is_dir():
        return Path(typed).resolve().name, Path(typed)
    return name, Path(path)


def judge_adapter(typed: str | None) -> None:
    """Raises NotFound where there is no adapter, before a model is looked up for it."""
    if typed:
        from elm_mlx.store.adapters.read import find_adapter  # here, as --help needs no MLX

        with naming("adapter"):
            find_adapter(parse_adapter(typed)[1])


def use_adapter(lm: LanguageModel, options: dict[str, Any], force: bool) -> None:
    """Loads the adapter that `options` name by its directory, and has them name it as the library does."""
    if typed := options.get("adapter"):
        name, path = parse_adapter(typed)
        with naming("adapter"):
            lm.load_adapter(name, path, force=force)
        options["adapter"] = name
