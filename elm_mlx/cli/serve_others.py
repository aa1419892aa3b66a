"""What `elm-mlx serve` does instead of serving HTTP: it serves one program over its pipes, or prints settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.errors import ElmError, InvalidRequest

if TYPE_CHECKING:
    from elm_mlx.server.advice import Place, Served
    from elm_mlx.server.settings import Settings

# Options that mean nothing over pipes, where the one client is who started the process.
OF_HTTP = ("host", "port", "uds", "api_key_file", "allowed_origins", "allowed_hosts", "aliases", "adapters",
           "keep_alive_s", "strict", "log_format", "as_json")  # fmt: skip


def serve_pipes(settings: Settings) -> int:
    """Serves the program that started this one, over standard input and output; returns the exit code. Raises
    InvalidRequest for options that were typed and mean nothing there."""
    from elm_mlx.server.stock import name_of
    from elm_mlx.sidecar import Wish, run

    refuse_typed(OF_HTTP, "With {stdio} the one client is the program that starts elm-mlx.")
    wishes = [Wish(model, pull=settings.pull, called=name_of(model)) for model in settings.models]
    return run(wishes, rows=settings.concurrency, queue=settings.max_queue, context=settings.context,
               cpu_policy=settings.cpu_policy)  # fmt: skip


def refuse_typed(names: tuple[str, ...], why: str) -> None:
    """Raises InvalidRequest where one of these options stands on the command line. One that comes from the environment
    is ignored."""
    context = click.get_current_context()
    typed = [name for name in names if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if typed:
        raise InvalidRequest("", f"{why} Leave {' and '.join(f'{{{name}}}' for name in typed)} out.")


def settings_of(client: str, settings: Settings, key_file: str | None) -> str:
    """The settings with which a client asks a server with these settings, as text. Raises InvalidRequest for a client
    that is not known, and where the server has no address that a client could be given."""
    from elm_mlx.server.connect import connect

    if settings.uds or not settings.port:
        raise InvalidRequest("Clients are given an address.", "Give a {port} above 0, and no {uds}.")
    return connect(client, place_of(settings, key_file))


def place_of(settings: Settings, key_file: str | None) -> Place:
    """Where a server with these settings answers, and with what."""
    from elm_mlx.server.adapters import put_beside
    from elm_mlx.server.advice import Place
    from elm_mlx.server.shelf import names_of
    from elm_mlx.server.stock import books_of

    host = settings.host or "127.0.0.1"
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"  # those who print this run on the server's machine
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    books = books_of(settings.models)
    put_beside(books, settings.adapters, settings.aliases)
    sources: dict[str, Any] = {name: book.source for book in books for name in names_of(book)}
    sources |= {alias: sources.get(model, model) for alias, model in settings.aliases.items()}
    models = [served(name, source, settings.context) for name, source in sources.items()]
    return Place(f"http://{host}:{settings.port}", models, settings.api_key is not None, key_file)


def served(name: str, source: str | Path | None, most: int | None) -> Served:
    """A model as clients know it. Where it is not on this machine, its context is not known."""
    from elm_mlx.api.model_files import read_model_files
    from elm_mlx.demo import demo_directory
    from elm_mlx.library.local import locate
    from elm_mlx.server.advice import Served

    try:
        found = locate(source) if source else None
        files = read_model_files(found.path if found else demo_directory()) if found or not source else None
    except ElmError:  # the server says what is wrong with it
        files = None
    if not files:
        return Served(name)
    return Served(name, min(files.config.context_length, most or files.config.context_length), files.has_chat_template)
