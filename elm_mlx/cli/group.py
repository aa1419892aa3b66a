"""The group of commands, each a file that is loaded when it is called, and errors as exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress

import click
from click.shell_completion import shell_complete

from elm_mlx import __version__
from elm_mlx.cli.messages import tell, with_flags
from elm_mlx.errors import DiskFull, ElmError, RankFailed
from elm_mlx.files import FULL, RAISE_THE_LIMIT, TOO_MANY_FILES

NAME, COMPLETE, PREFIX = "elm-mlx", "_ELM_MLX_COMPLETE", "ELM_MLX_"
GROUPS = {
    "Run a model": {
        "generate": "Complete a prompt.",
        "chat": "Talk to a model.",
        "batch": "Answer a file of requests.",
        "serve": "Serve a chat page, and OpenAI's and Anthropic's APIs.",
        "launch": "Run one of these commands on several machines.",
    },
    "Models on this machine": {
        "list": "List the known models, and what is on this machine.",
        "pull": "Fetch a model.",
        "info": "Show a model's size and the memory that it takes.",
        "rm": "Remove elm-mlx's own copies of a model.",
    },
    "Make a model": {
        "convert": "Convert a checkpoint to MLX.",
        "verify": "Compare a converted model with its source.",
        "push": "Upload a converted model to the Hugging Face hub.",
        "merge": "Merge an adapter into its model.",
        "train": "Train an adapter, or a whole model, on your data.",
    },
    "Measure": {
        "bench": "Measure how fast a model runs here.",
        "perplexity": "Measure how well a model predicts a text.",
        "eval": "Score a model on lm-eval's tasks.",
    },
    "Help": {
        "doctor": "Say what is installed, what is slow and what to do.",
        "completion": "Print a shell's completion script.",
    },
}
COMMANDS = {name: about for group in GROUPS.values() for name, about in group.items()}
# What overrides a refusal has to be typed each time; and so have hosts, which are a file or sizes.
TYPED = {"--force", "--yes", "--hosts"}
MODULES = {"list": "listing", "eval": "evaluation"}  # a command whose name is that of a built-in has another file
EPILOG = """\b
Examples:
  elm-mlx generate --prompt "Once upon a time"
  elm-mlx chat --model llama-3.2-1b-instruct
  elm-mlx convert apple/OpenELM-270M --bits 4

\b
Environment:
  An option that is not given takes its value from the variable ELM_MLX_ and
  its name, such as ELM_MLX_MODEL; all but --force, --yes and --hosts do.
  ELM_MLX_CACHE is where converted models are kept. ELM_MLX_BLAS=reference
  keeps the slow BLAS that MLX brings on Linux. HF_HOME, HF_TOKEN, HF_ENDPOINT,
  HF_HUB_OFFLINE and NO_COLOR mean what they do elsewhere.

\b
Exit codes:
  0 done         1 failed         2 wrong use        65 bad checkpoint
  66 not found   69 no backend    70 cache full      71 memory too small
  72 not verified                 73 output exists   74 disk full
  75 hub unreachable              76 too many wait   77 licence or token asked for
  78 unsupported   79 request failed                 80 engine stopped
  81 forked        82 cancelled   83 timed out       84 session answers
  85 tools called too often       86 address in use  87 a machine failed
  129 hung up      130 interrupted                   141 reader gone
  143 terminated"""


class LazyGroup(click.Group):
    """Commands by name: `elm_mlx.cli.NAME.command`, imported when a command is asked for, not for the overview."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the overview's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"elm_mlx.cli.{MODULES.get(cmd_name, cmd_name)}").command
        for option in command.params:
            if TYPED & set(option.opts) or (isinstance(option, click.Argument) and option.required):
                continue
            option.envvar = PREFIX + max(option.opts, key=len).lstrip("-").replace("-", "_").upper()
            if isinstance(option, click.Option):
                option.show_envvar = option.envvar in os.environ  # so that a mistake in it is reported as one
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the overview, ordered by what a person wants to do."""
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), about) for name, about in commands.items()])


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name=NAME, message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Convert OpenELM and Llama 3 checkpoints to MLX and run them on Apple silicon."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def call(arguments: list[str] | None) -> int:
    """Runs one command line (None: the process's own) and returns its exit code.

    It does what click's own `main` does, except that an interrupt and a closed pipe pass through.
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
    except RankFailed as error:
        return error.exit_code if error.is_told else fail(with_flags(error), error.exit_code)
    except ElmError as error:
        return fail(with_flags(error), error.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None  # Ctrl-C at a question
    except BrokenPipeError:
        raise
    except OSError as error:
        return fail(*describe(error))


def describe(error: OSError) -> tuple[str, int]:
    """(the message, the exit code) for an error of the operating system that no file of the library explained."""
    kind, advice = ElmError, "Check that it is there and yours."
    if error.errno in FULL:
        kind, advice = DiskFull, "Free some space."
    if error.errno in TOO_MANY_FILES:
        return f"{error.strerror}. {RAISE_THE_LIMIT}", kind.exit_code
    return f"{error.filename or 'The output'}: {error.strerror or error}. {advice}", kind.exit_code


def fail(message: str, code: int) -> int:
    """Prints what went wrong on stderr; returns the code."""
    tell(f"{NAME}: {message}")
    return code
