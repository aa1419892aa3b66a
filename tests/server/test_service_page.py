"""The files of docs/service.md are such as launchd and systemd read, and say what the server does."""

from __future__ import annotations

import plistlib
import re
from configparser import RawConfigParser
from pathlib import Path

import click

from elm_mlx.cli.group import cli
from elm_mlx.server.run import SIGNALS
from elm_mlx.server.settings import Limits

PAGE = (Path(__file__).parents[2] / "docs" / "service.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def mirrors() -> set[str]:
    """The variables that `elm-mlx serve` reads."""
    command = cli.get_command(click.Context(cli), "serve")
    assert command
    return {str(option.envvar) for option in command.params}


def test_the_file_for_launchd_is_a_property_list_that_starts_the_server() -> None:
    (text,) = blocks("xml")
    told = plistlib.loads(text.encode())
    assert told["ProgramArguments"][1:] == ["serve"]
    assert told["EnvironmentVariables"].keys() <= mirrors()
    assert told["ExitTimeOut"] > Limits().drain_s + 5


def test_the_files_for_systemd_start_the_server_and_know_its_exit_code() -> None:
    service, opened = (RawConfigParser(strict=False) for _ in range(2))
    for parser, text in zip((service, opened), blocks("ini"), strict=True):
        parser.read_string(text)
    told = service["Service"]
    assert told["ExecStart"].endswith("elm-mlx serve")
    assert {pair.partition("=")[0] for pair in told["Environment"].split()} <= mirrors()
    assert int(told["SuccessExitStatus"]) in SIGNALS.values()
    assert int(told["TimeoutStopSec"]) > Limits().drain_s + 5
    assert opened["Socket"]["ListenStream"] == "[::1]:8080"  # the last of two


def test_the_variables_in_the_text_are_read() -> None:
    assert set(re.findall(r"ELM_MLX_[A-Z_]*[A-Z]", PAGE)) <= mirrors()
