"""The group of commands, each a file that is loaded when it is called, and errors as exit codes."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from contextlib import suppress

import click
from click.shell_completion import shell_complete

from elm_mlx import __version__
from elm_mlx.cli.messages import say
from elm_mlx.errors import DiskFull, ElmError

NAME, COMPLETE = "elm-mlx", "_ELM_MLX_COMPLETE"
COMMANDS = {
    "chat": "Talk to a model.",
    "completion": "Print the completion of a shell.",
    "convert": "Convert a checkpoint to MLX.",
    "doctor": "Say what is installed, what is slow and what to do.",
    "generate": "Complete a prompt.",
    "info": "Show what a model is and takes.",
    "list": "List the known models, and what is on this machine.",
    "pull": "Fetch a model.",
    "rm": "Remove converted models.",
}
MODULES = {"list": "listing"}  # where a command's name is a built-in's
EPILOG = """\b
Examples:
  elm-mlx generate --prompt "Once upon a time"
  elm-mlx convert OpenELM-270M --tokenizer tokenizer.model --bits 4
  elm-mlx generate --model OpenELM-270M-mlx-4bit --prompt "The capital of"

\b
Exit codes:
  0 done         1 failed         2 wrong use        65 bad checkpoint
  66 not found   69 no backend    70 cache full      71 memory too small
  73 output exists                74 disk full       75 hub unreachable
  77 licence or token asked for   78 unsupported     129 hung up
  130 interrupted                 141 reader gone    143 terminated"""


class LazyGroup(click.Group):
    """Commands by name: `elm_mlx.cli.NAME.command`, imported when it is asked for, not for the overview."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the overview's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"elm_mlx.cli.{MODULES.get(cmd_name, cmd_name)}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=NAME, message="%(prog)s %(version)s")
def cli() -> None:
    """Convert OpenELM and Llama 3 checkpoints to MLX and run them on Apple silicon."""


def call(arguments: list[str] | None) -> int:
    """Runs one command line (None: the process's own) and returns its exit code.

    This is click's own `main` without its answers to an interrupt and a closed pipe, which pass through here.
    """
    if instruction := os.environ.get(COMPLETE):
        return shell_complete(cli, {}, NAME, COMPLETE, instruction)
    try:
        with cli.make_context(NAME, sys.argv[1:] if arguments is None else list(arguments)) as context:
            cli.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        with suppress(OSError):  # a full stderr does not change what went wrong
            error.show()
        return error.exit_code
    except ElmError as error:
        return fail(error, error.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None  # Ctrl-C at a question
    except BrokenPipeError:
        raise
    except OSError as error:
        full = error.errno == errno.ENOSPC
        advice = "Free some space." if full else "Check that it is there and yours."
        message = f"{error.filename or 'The output'}: {error.strerror or error}. {advice}"
        return fail(message, (DiskFull if full else ElmError).exit_code)


def fail(message: object, code: int) -> int:
    """Says what went wrong; returns the code."""
    say(f"{NAME}: {message}")
    return code
