"""What a person copies into the settings of a client, so that it asks this server. Nothing is written anywhere.

The clients' own documents say what these settings are called; docs/server.md says which clients were really run.
"""

from __future__ import annotations

from elm_mlx.arguments import shown
from elm_mlx.errors import InvalidRequest
from elm_mlx.server.advice import KEY, Place
from elm_mlx.server.clients import CLIENTS
from elm_mlx.shell import command_line


def connect(client: str, place: Place) -> str:
    """The settings with which a client asks the server at `place`, as text: comments, and blocks to copy. The key
    itself never stands in it. Raises InvalidRequest for a client that is not known, with the names of those that
    are."""
    make = CLIENTS.get(client.lower())
    if not make:
        raise InvalidRequest(f"elm-mlx has no settings for {shown(client)}; it has them for {', '.join(CLIENTS)}. "
                             "Other clients of OpenAI's API take those of openai.")  # fmt: skip
    advice = make(place)
    blocks = [f"# {block.where}\n{block.text.rstrip()}" for block in advice.blocks]
    notes = "\n".join(f"# {note}" for note in (*advice.notes, *chat_notes(place), *key_notes(place)))
    return "\n\n".join(filter(None, (*blocks, notes))) + "\n"


def chat_notes(place: Place) -> list[str]:
    """A warning where the default model cannot chat."""
    if place.first.chats:
        return []
    return [
        f"{place.first.name!r} has no chat template: it completes text, through /v1/completions, and refuses chats."
    ]


def key_notes(place: Place) -> list[str]:
    """Where the key is to be found."""
    if not place.needs_key:
        return ["The server asks for no key; a client that insists on one can have any word."]
    if not place.key_file:
        return [f"The key is the one in {KEY} when the server starts: set it where the client runs, too."]
    export = f'export {KEY}="$({command_line("cat", place.key_file)})"'
    return [f"The key is in {place.key_file}. In the shell where the client runs: {export}"]
