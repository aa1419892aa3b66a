"""The command line: one thin file a command, each loaded only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from elm_mlx import __version__
from elm_mlx.errors import ElmError

COMMANDS = {
    "convert": "elm_mlx.cli.convert",
    "generate": "elm_mlx.cli.generate",
    "info": "elm_mlx.cli.info",
}
INTERRUPTED, PIPE_CLOSED = 130, 141

EPILOG = """\b
Examples:
  elm-mlx generate --prompt "Once upon a time"
  elm-mlx convert OpenELM-270M --tokenizer tokenizer.model --bits 4
  elm-mlx generate --model OpenELM-270M-mlx-4bit --prompt "The capital of"

\b
Exit codes:
  0 done         1 failed         2 wrong use        65 bad checkpoint
  66 not found   69 no backend    70 cache full      73 output exists
  74 disk full   78 unsupported   130 interrupted    141 reader gone"""


class LazyGroup(click.Group):
    """Commands by name; a command's module is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, for the overview."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="elm-mlx", message="%(prog)s %(version)s")
def cli() -> None:
    """Convert OpenELM and Llama 3 checkpoints to MLX and run them on Apple silicon."""


def run(arguments: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code; a user's mistake is one sentence on stderr."""
    try:
        result: Any = cli.main(arguments, prog_name="elm-mlx", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ElmError as error:
        click.echo(f"elm-mlx: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit; give that flush somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def main() -> None:
    """The `elm-mlx` command."""
    sys.exit(run())
