"""Commands that a person copies into a shell."""

from __future__ import annotations

import os
import shlex


def command_line(*words: object) -> str:
    """Writes a command as bash and zsh read it: `words` are the program and its arguments, each quoted where it has to
    be, so that no name or path is taken for anything else. It is one line of printable characters."""
    return " ".join(quoted(str(word)) for word in words)


def quoted(word: str) -> str:
    """Quotes one word; what cannot be printed (a newline, a byte that is not UTF-8) as the octal escapes of $'...'."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(escaped(character) for character in word) + "'"


def escaped(character: str) -> str:
    """A character as it is written within $'...'."""
    if character in "\\'":
        return f"\\{character}"
    return character if character.isprintable() else "".join(f"\\{byte:03o}" for byte in os.fsencode(character))
