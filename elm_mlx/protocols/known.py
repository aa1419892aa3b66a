"""Which fields an API knows, and what becomes of each: it is enforced, has no effect, or is refused. A field that is in
none of an API's tables is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from elm_mlx.arguments import shown
from elm_mlx.protocols.refusal import FieldRefused

MOST_IGNORED, LONGEST_NAME = 32, 64  # of the names of unknown fields that are told


class Lacking(NamedTuple):
    """A field that would change an answer in a way that elm-mlx lacks: why it is refused, and the values by which it
    changes nothing, which are accepted."""

    why: str
    neutral: tuple[Any, ...] = ()


class Known(NamedTuple):
    """The fields of an API: those that are enforced, those without effect, and those that are refused."""

    enforced: Mapping[str, str]
    harmless: Mapping[str, str]
    lacking: Mapping[str, Lacking]


def check_fields(body: object, known: Known, *, strict: bool) -> tuple[str, ...]:
    """The names of the fields of a request that are unknown; null counts as absent. Raises FieldRefused for what is no
    object, for a field that asks for what elm-mlx lacks and, where the reading is `strict`, for one that is unknown."""
    if not isinstance(body, Mapping):
        raise FieldRefused("body", f"The body is {shown(body)}; it must be an object.")
    for name in body.keys() & known.lacking.keys():
        refuse_lacking(name, body[name], known.lacking[name])
    unknown = [name for name, value in body.items() if value is not None and not any(name in some for some in known)]
    if strict and unknown:
        raise unknown_field(unknown[0], known)
    return tuple(map(printable, unknown[:MOST_IGNORED]))


def printable(name: str) -> str:
    """The name of a field for messages: cut where it is long, and as Python shows it where it is empty or cannot be
    printed."""
    return (name if name and name.isprintable() else shown(name))[:LONGEST_NAME]


def refuse_lacking(name: str, value: object, lacking: Lacking) -> None:
    """Raises FieldRefused unless a value is one by which a field changes nothing."""
    if value is None or any(equal(value, one) for one in lacking.neutral):
        return
    raise FieldRefused(name, f"{name} is {shown(value)}, and elm-mlx cannot do that: {lacking.why}. Leave it out.",
                       "unsupported_parameter")  # fmt: skip


def equal(value: object, other: object) -> bool:
    """Whether two values of JSON are equal. In Python true equals 1, in JSON it does not."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def unknown_field(name: str, known: Known) -> FieldRefused:
    """The error for a field that nobody knows."""
    near = get_close_matches(name[:80], known.enforced, n=1, cutoff=0.75)
    advice = f"Did you mean {near[0]}?" if near else "Leave it out."
    told = printable(name)
    return FieldRefused(told, f"{told} is not a field that elm-mlx knows. {advice}", "unknown_parameter")
