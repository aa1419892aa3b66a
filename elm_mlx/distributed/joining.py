"""How a process becomes a rank for one model: it looks at its own files and memory, and meets the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from elm_mlx.demo import demo_directory
from elm_mlx.distributed.facts import facts_of
from elm_mlx.distributed.hello import Facts
from elm_mlx.distributed.hosts import hosts_here
from elm_mlx.distributed.meeting import join
from elm_mlx.distributed.part import Kind
from elm_mlx.distributed.rank_files import remove_files
from elm_mlx.distributed.ranks import Ranks
from elm_mlx.errors import ElmError, InvalidRequest, NotFound
from elm_mlx.library.local import Located, locate
from elm_mlx.shell import command_line


def directory_here(model: str | Path | None, bits: int | None) -> Path:
    """The directory of a model on this machine; None means the demo. Raises NotFound for one that is not here: no rank
    fetches a model while the others wait."""
    return demo_directory() if model is None else located_here(model, bits).path


def located_here(model: str | Path, bits: int | None) -> Located:
    """A model of this machine. Raises NotFound for one that is not here."""
    if found := locate(model, bits):
        return found
    fetch = command_line("elm-mlx", "pull", model, *(("--bits", bits) if bits else ()))
    raise NotFound(f"{model} is not on this machine, and each rank needs its own copy. `{fetch}` fetches it.")


def join_model(
    kind: Kind,
    find: Callable[[], Path],
    force: bool = False,
    settings: Mapping[str, Any] | None = None,
    words: Callable[[ElmError], str] = str,
) -> Ranks:
    """Meets the other ranks for the model in the directory that `find` gives, held as `kind` says; with `force`
    whatever memory there is. What `settings` hold must be alike on all ranks. Raises InvalidRequest in a process that
    is no rank, RankFailed as `join` does, also for what `find` and the reading of headers raise on any rank, which
    `words` puts into words."""
    if (hosts := hosts_here()) is None:
        raise InvalidRequest("This process does not know its ranks. `elm-mlx launch` starts them.")

    def facts() -> Facts:
        try:
            return facts_of(find(), kind, hosts, force)
        except ElmError as error:
            raise ElmError(words(error)) from error

    ranks = join(kind, facts, settings or {}, hosts)
    remove_files()
    return ranks
