"""`elm-mlx completion`: the lines that teach a shell the commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    For bash add to ~/.bashrc: eval "$(elm-mlx completion bash)"; for zsh the same with zsh in ~/.zshrc; for fish:
    elm-mlx completion fish > ~/.config/fish/completions/elm-mlx.fish
    """
    from elm_mlx.cli.group import COMPLETE, NAME, cli

    kind = get_completion_class(shell)
    assert kind is not None  # click knows all three
    click.echo(kind(cli, {}, NAME, COMPLETE).source())
