"""Reads calls that are written as Python: [f(a='x'), g(b=1)], as Llama 3.2 and 3.3 do. Nothing is evaluated."""

from __future__ import annotations

import ast
import re
from typing import Any

from elm_mlx.arguments import is_unicode
from elm_mlx.text.tools.brackets import MAX_DEPTH
from elm_mlx.text.tools.json_calls import Called, finite, whole

TOKEN = re.compile(
    r"""\s*+(?:(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+"|'[^'\\]*+(?:\\.[^'\\]*+)*+')
    |(?P<number>[+-]?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d++)?(?![\w.]))|(?P<name>[^\W\d][\w.-]*+)|(?P<mark>[][(){},:=]))
    """,
    re.DOTALL | re.VERBOSE,
)
WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
# An escape of Python's, or what stands in none of its strings, but in one of a model: other backslashes, line ends.
ESCAPE = re.compile(r"""(\\(?:[\\'"abfnrtvxNuU\n]|[0-3][0-7]{0,2}))|[\\\n\r\0]""")


class NoCall(ValueError):
    """The text is no list of calls."""


class Reader:
    """Reads one text from left to right, in linear time and at most MAX_DEPTH brackets deep. Raises NoCall."""

    def __init__(self, text: str) -> None:
        self._text, self._place = text, 0
        self._kind, self._token = "", ""
        self._next()

    def _next(self) -> str:
        """Goes to the next token, and returns the one before."""
        before = self._token
        found = TOKEN.match(self._text, self._place)
        if found and found.lastgroup:
            self._kind, self._token, self._place = found.lastgroup, found[found.lastgroup], found.end()
        elif self._text[self._place :].strip():
            raise NoCall
        else:
            self._kind = self._token = ""
        return before

    def _take(self, mark: str) -> bool:
        """Takes this mark, if it comes next."""
        if self._kind == "mark" and self._token == mark:
            self._next()
            return True
        return False

    def _need(self, mark: str) -> None:
        if not self._take(mark):
            raise NoCall

    def _name(self) -> str:
        if self._kind != "name":
            raise NoCall
        return self._next()

    def calls(self) -> list[Called]:
        """The calls of the whole text: a list of some, or one alone."""
        found = []
        if self._take("["):
            while not self._take("]"):
                found.append(self._call())
                if not self._take(","):
                    self._need("]")
                    break
        else:
            found.append(self._call())
        if self._token or not found:
            raise NoCall
        return found

    def _call(self) -> Called:
        """A call: a name, and arguments that all have names."""
        name, arguments = self._name(), dict[str, Any]()
        self._need("(")
        while not self._take(")"):
            key = self._name()
            self._need("=")
            if key in arguments:
                raise NoCall
            arguments[key] = self._value(MAX_DEPTH)
            if not self._take(","):
                self._need(")")
                break
        return Called(name, arguments)

    def _value(self, depth: int) -> Any:
        """A literal: a text, a number, True, False, None, a list (or a tuple, as a list), or a dict."""
        if not depth:
            raise NoCall
        if self._kind == "string":
            return text_of(self._next())
        if self._kind == "number":
            return number_of(self._next())
        if self._kind == "name" and self._token in WORDS:
            return WORDS[self._next()]
        for opening, closing in ("[]", "()"):
            if self._take(opening):
                return self._items(closing, depth)
        self._need("{")
        return self._pairs(depth)

    def _items(self, closing: str, depth: int) -> list[Any]:
        items = []
        while not self._take(closing):
            items.append(self._value(depth - 1))
            if not self._take(","):
                self._need(closing)
                break
        return items

    def _pairs(self, depth: int) -> dict[str, Any]:
        pairs = {}
        while not self._take("}"):
            if self._kind != "string":
                raise NoCall
            key = text_of(self._next())
            self._need(":")
            pairs[key] = self._value(depth - 1)
            if not self._take(","):
                self._need("}")
                break
        return pairs


def text_of(literal: str) -> str:
    """The text of a string literal, which may go over several lines, and in which a backslash that begins no escape
    stands for itself. Raises NoCall for a wrong escape, or for text that is no Unicode."""
    escaped = ESCAPE.sub(lambda found: found[1] or f"\\x{ord(found[0]):02x}", literal)
    try:
        text = str(ast.literal_eval(escaped))
    except (SyntaxError, ValueError, MemoryError) as error:
        raise NoCall from error
    if not is_unicode(text):
        raise NoCall
    return text


def number_of(digits: str) -> int | float:
    """The number of a literal. Raises NoCall where it is none in Python, or beyond a float's range."""
    try:
        return whole(digits) if digits.lstrip("+-").isdecimal() else finite(digits)
    except ValueError as error:
        raise NoCall from error


def read_pythonic(text: str) -> list[Called] | None:
    """The calls of a text as Python writes them, or None where it is anything else."""
    try:
        return Reader(text).calls()
    except NoCall:
        return None
