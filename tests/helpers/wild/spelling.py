"""Two spellings of one directory: as published, and with control tokens in letters that no caller writes.

A directory is made in the private spelling. In it, a caller's text never reads as a control token, so what a plain
tokenizer makes of it there is what a safe one makes of the public spelling: same vocabulary, same ids, same flags.
"""

from __future__ import annotations

from typing import Any

PUBLIC = "<>|[]/\uff5c\u2581"  # each control token has one of these; none is a letter of a word or a blank
PRIVATE = "".join(chr(0xE000 + place) for place in range(len(PUBLIC)))
_TO_PRIVATE, _TO_PUBLIC = str.maketrans(PUBLIC, PRIVATE), str.maketrans(PRIVATE, PUBLIC)


def private(token: str) -> str:
    """Spells a control token, or a part of one that a template joins, in private letters."""
    return token.translate(_TO_PRIVATE)


def public(value: Any) -> Any:
    """Spells a text, or JSON with keys and texts, as it is published."""
    if isinstance(value, str):
        return value.translate(_TO_PUBLIC)
    if isinstance(value, dict):
        return {public(key): public(item) for key, item in value.items()}
    return [public(item) for item in value] if isinstance(value, list) else value


def is_private(letter: str) -> bool:
    return letter in PRIVATE
