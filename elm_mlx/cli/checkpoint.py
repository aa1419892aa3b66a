"""The checkpoint that a command is to read: on this machine, or fetched by its name."""

from __future__ import annotations

from pathlib import Path

from elm_mlx.cli.messages import say
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.errors import InvalidRequest
from elm_mlx.files import can_name_a_file
from elm_mlx.library.names import Known, parse_name


def refuse_rope_factor(rope_factor: float | None, **_: object) -> None:
    """Raises InvalidRequest for a factor of Meta's layout, which no repository that is fetched by name has."""
    if rope_factor is not None:
        raise InvalidRequest("", "{rope_factor} is for Meta's own layout (params.json), which is not fetched by name. "
                             "Leave it out.")  # fmt: skip


def fetched_name(source: str) -> str | None:
    """The name, without its owner, of the repository that a model's name stands for; None for a path and for what is on
    this machine, a file or a directory."""
    if can_name_a_file(Path(source)) and Path(source).exists():
        return None
    named = parse_name(source)
    if isinstance(named, Path):
        return None
    return (named.original if isinstance(named, Known) else named.name).partition("/")[2]


def fetch_source(source: str, *, dry_run: bool, with_tokenizer: bool) -> tuple[Path, Path | None]:
    """Fetches a checkpoint by name, and its tokenizer where one is wanted; gives (its directory, the tokenizer if that
    is from elsewhere). A dry run fetches nothing."""
    from elm_mlx.library.local import cached_checkpoint
    from elm_mlx.library.pull import fetch_checkpoint

    with ProgressBar("Fetching", in_bytes=True) as bar:
        if dry_run:
            found = cached_checkpoint(source, tokenizer=with_tokenizer)
        else:
            found = fetch_checkpoint(source, bar, say, tokenizer=with_tokenizer)
    say(f"{found.repository.name} at commit {found.snapshot.commit[:12]}")
    return found.snapshot.path, found.tokenizer
