"""The fields of a request's objects, read one by one: what is not as it must be raises FieldRefused with its path."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from elm_mlx.arguments import shown
from elm_mlx.protocols.known import MOST_IGNORED, Known, check_fields, printable
from elm_mlx.protocols.openai.values import as_text, flag_in, number_in, whole_in
from elm_mlx.protocols.refusal import FieldRefused


@dataclass
class Leftovers:
    """What of a request has no effect because elm-mlx does not know it, or lacks what it is about; where `strict`, it
    is refused instead."""

    strict: bool = False
    names: list[str] = field(default_factory=list)

    def add(self, param: str, why: str) -> None:
        """Notes a field, by its path, or what stands there. Raises FieldRefused with `why`, a sentence, where
        strict."""
        if self.strict:
            raise FieldRefused(param, f"{why} Leave it out.", "unknown_parameter")
        if param not in self.names and len(self.names) < MOST_IGNORED:
            self.names.append(param)


class Fields:
    """The fields of one object of a request. `at` is its path, empty for the body itself. A field that is null counts
    as missing: all that look for one give None then. What a field must be stands in its reader's name."""

    def __init__(self, value: object, at: str, leftovers: Leftovers) -> None:
        if not isinstance(value, Mapping):
            raise FieldRefused(at or "body", f"{at or 'The body'} is {shown(value)}; it must be an object.")
        self.value, self.at, self.leftovers = value, at, leftovers

    def path(self, name: str) -> str:
        """The path of a field, as "tools[0].name"; a name that is empty or cannot be printed stands as Python shows
        it."""
        name = printable(name)
        return f"{self.at}.{name}" if self.at else name

    def refuse(self, name: str, message: str, code: str = "invalid_value") -> NoReturn:
        """Raises FieldRefused for a field; the message begins with its path."""
        raise FieldRefused(self.path(name), f"{self.path(name)} {message}", code)

    def wrong(self, name: str, wanted: str) -> NoReturn:
        """Raises FieldRefused for a field that is none of what is `wanted`."""
        if (value := self.get(name)) is None:
            self.refuse(name, f"is missing; it must be {wanted}.", "missing_required_parameter")
        self.refuse(name, f"is {shown(value)}; it must be {wanted}.")

    def refuse_kind(self, kind: str) -> NoReturn:
        """Raises FieldRefused for a part of a content whose type is this one, and no text: an image, a sound, a
        file."""
        why = f"is {shown(kind)}, and the models that elm-mlx runs read text alone."
        self.refuse("type", why, "unsupported_content_type")

    def check(self, known: Collection[str]) -> None:
        """Notes the fields that are none of the `known` ones."""
        for name in self.value:
            if name not in known and self.value[name] is not None:
                path = self.path(str(name))
                self.leftovers.add(path, f"{path} is not a field that elm-mlx knows.")

    def get(self, name: str) -> Any:
        """The value of a field, whatever it is."""
        return self.value.get(name)

    def text(self, name: str) -> str | None:
        """A text."""
        return None if self.get(name) is None else as_text(self.path(name), self.get(name))

    def full_text(self, name: str) -> str:
        """A text that has to be there and may not be empty."""
        value = self.text(name)
        return value or self.wrong(name, "a text, and not an empty one")

    def flag(self, name: str) -> bool | None:
        """True or false."""
        return flag_in(self._alone(name), self.path(name))

    def whole(self, name: str, least: int, most: int | None = None) -> int | None:
        """A whole number within bounds."""
        return whole_in(self._alone(name), self.path(name), least, most)

    def number(self, name: str, least: float, most: float) -> float | None:
        """A number within bounds."""
        return number_in(self._alone(name), self.path(name), least, most)

    def _alone(self, name: str) -> dict[str, Any]:
        """A field under its path, which is what errors call it."""
        return {self.path(name): self.get(name)}

    def one_of(self, name: str, known: Collection[str]) -> str | None:
        """One of some texts."""
        value = self.get(name)
        if value is not None and (not isinstance(value, str) or value not in known):
            self.wrong(name, " or ".join(known))
        return value

    def listed(self, name: str) -> list[Any]:
        """A list; an empty one where it is missing."""
        value = self.get(name)
        if not isinstance(value, list | None):
            self.wrong(name, "a list")
        return value or []

    def texts(self, name: str) -> list[str] | None:
        """A list of texts, none of them empty."""
        for place, one in enumerate(self.listed(name)):
            if not isinstance(one, str) or not one:
                self.refuse(f"{name}[{place}]", f"is {shown(one)}; it must be a text, and not an empty one.")
        return self.get(name)

    def inner(self, name: str) -> Fields:
        """The fields of an object inside of this one; one without fields where it is missing."""
        value = self.get(name)
        return Fields({} if value is None else value, self.path(name), self.leftovers)

    def needed(self, name: str) -> Fields:
        """The fields of an object that has to be there."""
        return self.wrong(name, "an object") if self.get(name) is None else self.inner(name)

    def objects(self, name: str) -> Iterator[Fields]:
        """The fields of each object in a list."""
        for place, one in enumerate(self.listed(name)):
            yield Fields(one, f"{self.path(name)}[{place}]", self.leftovers)


def fields_of(body: object, known: Known, *, strict: bool) -> Fields:
    """The fields of a whole request, of which those that are in none of the tables in `known` are noted. Raises
    FieldRefused for what is no object, and as `check_fields`."""
    return Fields(body, "", Leftovers(strict, [*check_fields(body, known, strict=strict)]))
