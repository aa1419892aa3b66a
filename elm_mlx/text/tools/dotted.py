"""Reads calls of built-in tools: brave_search.call(query="..."), as the templates of Llama 3.1 write them."""

from __future__ import annotations

import re

from elm_mlx.text.tools.json_calls import Called

CALL = re.compile(r"\s*+([\w-]+)\.call\((.*)\)\s*+", re.DOTALL)
FIRST = re.compile(r'\s*([\w-]+)="')
BORDER = re.compile(r'",\s*([\w-]+)="')  # between two arguments


def read_dotted(text: str) -> list[Called] | None:
    """The one call of a text, or None where it is anything else.

    The templates put the arguments between quotes as they are, without escapes, so they are read so: all of them are
    texts, and one ends where `", name="` begins another, or at the end. That is not certain for a text with these
    characters in it.
    """
    found = CALL.fullmatch(text)
    if not found:
        return None
    name, inside = found[1], found[2]
    if not inside.strip():
        return [Called(name, {})]
    first = FIRST.match(inside)
    if not first or not inside.endswith('"') or len(inside) <= first.end():
        return None
    value, *others = BORDER.split(inside[first.end() : -1])  # of the first argument; then name, value, name, ...
    keys, values = [first[1], *others[0::2]], [value, *others[1::2]]
    return [Called(name, dict(zip(keys, values, strict=True)))] if len(set(keys)) == len(keys) else None
