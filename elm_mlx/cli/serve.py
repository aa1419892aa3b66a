"""`elm-mlx serve`: a server for clients of OpenAI's and Anthropic's APIs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.find import complete_names, pull_directory
from elm_mlx.cli.kinds import COUNT, NAME, Whole
from elm_mlx.cli.messages import say
from elm_mlx.cli.parallel import kind_here, parallel
from elm_mlx.cli.sections import SectionedCommand
from elm_mlx.cli.serve_others import refuse_typed, serve_pipes, settings_of
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound

if TYPE_CHECKING:
    from elm_mlx.server.run import Ready

KEY = "ELM_MLX_API_KEY"
MOST_KEY_BYTES = 4096
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smh]?)")


class Duration(click.ParamType):
    """A time as 90s, 5m or 1h; a number alone means seconds, and -1 for ever."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The time in seconds; -1 for ever."""
        if not isinstance(value, str):
            return value
        if value == "-1":
            return -1.0
        if not (found := DURATION.fullmatch(value)):
            self.fail(f"{value!r} is not a time; write 90s, 5m, 1h, or -1 for ever.", param, ctx)
        return float(found[1]) * UNITS[found[2]]


class Alias(click.ParamType):
    """A further name of a model, as NAME=MODEL."""

    name = "alias"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text as (name, model)."""
        if not isinstance(value, str):
            return value
        name, equals, model = value.partition("=")
        if not (name and equals and model):
            self.fail(f"{value!r} is not NAME=MODEL, as in gpt-4o=demo.", param, ctx)
        return name, model


@click.command(cls=SectionedCommand)
@click.option(
    "-m",
    "--model",
    "models",
    type=NAME,
    multiple=True,
    metavar="MODEL",
    shell_complete=complete_names,
    help="A name, OWNER/NAME or a directory; repeatable. Requests that name no model get the first. Default: the demo.",
)
@click.option(
    "--alias",
    "aliases",
    type=Alias(),
    multiple=True,
    metavar="NAME=MODEL",
    help="Give a model one more name. Repeatable.",
)
@click.option(
    "--adapter",
    "adapters",
    type=NAME,
    multiple=True,
    metavar="[[MODEL:]NAME=]PATH",
    help="Serve this LoRA or DoRA beside its model, as MODEL:NAME. Repeatable.",
)
@click.option("--pull", is_flag=True, help="Let requests fetch models that are not on this machine.")
@click.option("--host", type=NAME, metavar="ADDRESS", help="Listen here. Default: 127.0.0.1 and ::1.")
@click.option("--port", type=Whole(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--uds", type=NAME, metavar="PATH", help="Listen on a socket file instead, in a folder of mode 0700.")
@click.option("--stdio", is_flag=True, help="Serve only the program that starts it, over standard input and output.")
@click.option(
    "--api-key-file", type=NAME, metavar="FILE", help=f"Ask every client for the key in it. Or set {KEY} to the key."
)
@click.option(
    "--allow-origin",
    "allowed_origins",
    type=NAME,
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this origin ask, such as http://localhost:3000. Repeatable.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    type=NAME,
    multiple=True,
    metavar="NAME",
    help="Accept requests that call this machine by this name. Repeatable.",
)
@click.option("--max-queue", type=Whole(1, 65536), default=256, show_default=True, help="This many requests may wait.")
@click.option(
    "--concurrency", type=Whole(1, 256), default=8, show_default=True, help="A model answers this many together."
)
@click.option("--context", type=COUNT, metavar="N", help="A request has up to N tokens, prompt and answer.")
@click.option(
    "--keep-alive",
    "keep_alive_s",
    type=Duration(),
    default="5m",
    show_default=True,
    help="Close a model that was idle for this long; 0 at once, -1 never.",
)
@click.option(
    "--cpu-policy",
    type=click.Choice(["auto", "plain", "compiled"]),
    default="auto",
    show_default=True,
    help="On MLX's CPU backend compute as is fastest there, as stored, or as stored and compiled as on a GPU.",
)
@click.option("--strict", is_flag=True, help="Refuse requests with unknown fields.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of the log on stderr: a line for each request, without its text.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object once the server is ready.")
@click.option(
    "--connect",
    type=NAME,
    metavar="CLIENT",
    help="Print the settings for a client, and serve nothing: codex, claude-code, xcode, continue, opencode, aider, "
    "open-webui, llm, zed, litellm, langchain, openai or anthropic.",
)
@parallel
def command(
    stdio: bool, connect: str | None, api_key_file: str | None, log_format: str, as_json: bool, **options: Any
) -> None:
    """Serve a chat page, and OpenAI's and Anthropic's APIs.

    A model on this machine is loaded when a request names it. Only programs on this machine reach the server, unless
    --host says otherwise. Ctrl-C ends it, after the running requests.
    """
    prefer_fast_blas()
    from elm_mlx.server.log import set_up_log
    from elm_mlx.server.run import serve
    from elm_mlx.server.settings import Settings
    from elm_mlx.server.stock import DEMO

    options["aliases"] = dict(options["aliases"])
    if kind := kind_here():
        refuse_typed(("keep_alive_s",), "A model that several ranks hold stays loaded.")
        options["keep_alive_s"] = -1.0
    settings = Settings(api_key=read_key(api_key_file), parallel=kind, **options)
    if connect:
        return click.echo(settings_of(connect, settings, api_key_file), nl=False)
    if stdio:
        raise click.exceptions.Exit(serve_pipes(settings))
    if settings.uds:
        refuse_typed(("host", "port"), "With {uds} the server listens on a socket file alone.")
    for model in settings.models:
        if model != DEMO:
            pull_directory(model, {"bits": None}, False)
    set_up_log(log_format)
    code = serve(settings, print_ready if as_json else say_ready)
    raise click.exceptions.Exit(code)


def read_key(path: str | None) -> str | None:
    """The server's key, from a file or the environment; it never stands on the command line, which others can read.
    Raises NotFound, and InvalidRequest for a key that no client could send."""
    if path is None:
        return check_key(os.environ.get(KEY), KEY)
    from elm_mlx.files import read_text

    try:
        return check_key(read_text(Path(path), MOST_KEY_BYTES), path)
    except NotFound as error:
        raise NotFound(f"There is no file {path}.", "Name one that holds the key: {api_key_file}.") from error
    except BadCheckpoint as error:
        raise InvalidRequest(
            f"{path} holds no key: it must be one line of text.", "Name another {api_key_file}."
        ) from error


def check_key(text: str | None, source: str) -> str | None:
    """The key in a text; None where there is no text. Raises InvalidRequest."""
    if text is None:
        return None
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidRequest(f"{source} holds no key: a key is a word of letters, digits and signs of ASCII.")
    return key


def print_ready(ready: Ready) -> None:
    """Prints the ready line for programs: one JSON object."""
    click.echo(json.dumps(ready._asdict()))


def say_ready(ready: Ready) -> None:
    """Says where the server answers."""
    say(f"Serving {', '.join(ready.models)} at {ready.url}. Ctrl-C ends it.")
