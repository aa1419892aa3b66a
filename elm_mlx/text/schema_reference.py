"""References within a JSON schema: JSON pointers (RFC 6901) in the form that follows the # of a URI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote


class Outside(ValueError):
    """A reference leads out of its schema."""


class Nowhere(ValueError):
    """A reference names nothing in its schema."""


def referred(reference: object, root: Any) -> Any:
    """The part of the schema `root` that a $ref names. Raises Outside, also for a place within a part that has an $id,
    which is a schema of its own; Nowhere where there is no such place."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise Outside
    found = root
    for step in reference.split("/")[1:]:
        if isinstance(found, Mapping) and isinstance(found.get("$id"), str) and found is not root:
            raise Outside
        found = child(found, unquote(step).replace("~1", "/").replace("~0", "~"))
    return found


def child(part: Any, key: str) -> Any:
    """What a part has under a key, or as its item of that number. Raises Nowhere."""
    if isinstance(part, Mapping) and key in part:
        return part[key]
    if isinstance(part, list | tuple) and key.isdecimal() and len(key) < 10 and int(key) < len(part):
        return part[int(key)]
    raise Nowhere
