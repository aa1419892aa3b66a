"""The options of `elm-mlx generate` about keys and values: how they are held, and files of a prompt's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.arguments import file_to_write
from elm_mlx.cli.kinds import NAME, WINDOW_SIZE
from elm_mlx.cli.messages import say
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.cli.wishes import naming

if TYPE_CHECKING:
    from elm_mlx import Completion, LanguageModel

NOT_USED = (
    "The loaded keys and values were not used: the prompt does not begin with their tokens, or --window or --kv-bits "
    "differs from when they were saved."
)


class KvBits(click.Choice[str]):
    """The bits of keys and values: a number, or a text for two."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """8 and 4 as numbers, k8v4 as it is."""
        chosen = super().convert(str(value), param, ctx)
        return int(chosen) if chosen.isdigit() else chosen


WINDOW = click.option(
    "--window", type=WINDOW_SIZE, metavar="N", help="See only the last N tokens, and forget the others."
)
KV_BITS = click.option(
    "--kv-bits",
    type=KvBits(["8", "4", "k8v4"]),
    help="Store the cache in this many bits; k8v4: keys in 8, values in 4.",
)
SAVE = click.option("--save-cache", type=NAME, metavar="FILE", help="Save the prompt's cache in this file.")
LOAD = click.option("--load-cache", type=NAME, metavar="FILE", help="Start from the cache saved in this file.")


class CacheFiles:
    """The files that a command is to load keys and values from, and to save them in; None for none."""

    def __init__(self, save: str | None, load: str | None) -> None:
        """Raises InvalidRequest, NotFound, BadCheckpoint and TargetExists, before a model is looked up, for a file that
        cannot be read or must not be written."""
        self.to_load = Path(load) if load else None
        self.to_save = Path(save) if save else None
        if save or load:
            self._judge()

    def _judge(self) -> None:
        """Raises what is wrong with the files."""
        from elm_mlx.store.prompt_cache import own_metadata, refuse_other_file  # here, as --help needs no MLX

        with naming("load_cache"):
            if self.to_load:
                own_metadata(self.to_load)
        with naming("save_cache"):
            if self.to_save:
                refuse_other_file(file_to_write("--save-cache", self.to_save))

    def use(self, lm: LanguageModel, prompt: str | list[int], options: dict[str, Any]) -> None:
        """Loads and saves what was asked for, and says so."""
        if self.to_load:
            with naming("load_cache"):
                count = lm.load_cache(self.to_load, adapter=options.get("adapter"))
            say(f"{count:,} tokens are loaded from {self.to_load}.")
        if self.to_save:
            with ProgressBar("Reading the prompt", in_bytes=False) as bar:
                kind = {name: options[name] for name in ("window", "kv_bits", "adapter")}
                count = lm.save_cache(prompt, self.to_save, progress=bar, **kind)
            say(f"{count:,} tokens are saved in {self.to_save}.")

    def say_unused(self, answer: Completion) -> None:
        """Says so where what was loaded was of no use to an answer."""
        if self.to_load and not answer.stats.cached_tokens:
            say(NOT_USED)
