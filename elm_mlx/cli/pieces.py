"""Prints an answer as it comes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elm_mlx.api import Piece


def print_texts(pieces: Iterable[Piece]) -> None:
    """Prints the texts of pieces as they come, but for calls of tools, with an empty line between reasoning and answer:
    the marks that stood there are no text."""
    kind = None
    for piece in pieces:
        if piece.text and piece.kind != "tool":
            if kind not in (None, piece.kind):
                print("\n")
            kind = piece.kind
            print(piece.text, end="", flush=True)  # click.echo would take escape codes out
