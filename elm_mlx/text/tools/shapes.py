"""The forms in which Llama 3 models write calls: how each begins, where it ends, and what it says.

They are those of Meta's llama-models (its prompt formats and tool_utils.py), and of the chat templates of 3.1 to 3.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from elm_mlx.text.tools.dotted import read_dotted
from elm_mlx.text.tools.json_calls import Called, read_json
from elm_mlx.text.tools.pythonic import read_pythonic

BUILT_IN = ("brave_search", "wolfram_alpha")  # tools that Llama 3.1 knows without being told
CODE = "code_interpreter"  # the tool that gets what follows <|python_tag|> where that is no other call
TAG, TAG_END = "<function=", "</function>"
JSON_KEYS = ('"name"', '"type"', '"parameters"', '"arguments"')
LIST_HEAD = re.compile(r"\[\s*+(?:[^\W\d][\w.-]*+(\()?+)?+")
TAG_HEAD = re.compile(r"(?:[\w.-]++(?:>\s*+(\{)?+)?+)?+")
TAGGED = re.compile(r"<function=([\w.-]+)>\s*(\{.*\})\s*(?:</function>)?\s*", re.DOTALL)


@dataclass(frozen=True)
class Shape:
    """A form of calls. `head` says of a beginning whether it is one; None: that is not known yet. The call lasts from
    its first bracket, character `first` of the beginning, to the one that closes it, and over a `tail`; `quotes` begin
    and end strings in it. Without `quotes` it lasts over what the pattern `until` finds, or to the end of the turn.
    `read` gives the calls that a whole text is, None if it is none."""

    head: Callable[[str], bool | None]
    read: Callable[[str], list[Called] | None]
    quotes: str = ""
    tail: str = ""
    first: int = 0
    until: str = ""


def found_head(found: re.Match[str] | None) -> bool | None:
    """What a pattern says of a beginning that has matched as a whole, or has not: its group is the last character."""
    return False if found is None else True if found[1] else None


def json_head(text: str) -> bool | None:
    """Whether a text begins as an object of JSON whose first key is one of a call's."""
    rest = text[1:].lstrip()
    return True if rest in JSON_KEYS else None if any(key.startswith(rest) for key in JSON_KEYS) else False


def list_head(text: str) -> bool | None:
    """Whether a text begins as a list of calls: in Python's form, or of objects in JSON."""
    return text[1:].lstrip().startswith("{") or found_head(LIST_HEAD.fullmatch(text))


def tag_head(text: str) -> bool | None:
    """Whether a text begins as <function=name>{ does."""
    return None if TAG.startswith(text) else text.startswith(TAG) and found_head(TAG_HEAD.fullmatch(text, len(TAG)))


def one_of(starts: Collection[str], text: str) -> bool | None:
    """Whether a text is one of some beginnings."""
    return True if text in starts else None if any(start.startswith(text) for start in starts) else False


def read_list(text: str) -> list[Called] | None:
    """The calls of a list, as Python or JSON writes them."""
    return read_json(text) if text[1:].lstrip().startswith("{") else read_pythonic(text)


def read_tag(text: str) -> list[Called] | None:
    """The call that <function=name>{...}</function> is."""
    found = TAGGED.fullmatch(text)
    return read_json(f'{{"name": "{found[1]}", "parameters": {found[2]}}}') if found else None


def read_program(names: Collection[str], text: str) -> list[Called]:
    """The call that a text after <|python_tag|> is where it has none of the other forms: one of a tool with a known
    name, as Python writes it, or else a program."""
    calls = read_dotted(text) or read_pythonic(text)
    return calls if calls and all(call.name in names for call in calls) else [Called(CODE, {"code": text})]


JSON = Shape(json_head, read_json, quotes='"')
LIST = Shape(list_head, read_list, quotes="\"'")
TAGS = Shape(tag_head, read_tag, quotes='"', tail=TAG_END)


def dotted(names: Collection[str]) -> Shape:
    """The form name.call(...) of tools with these names."""
    return Shape(partial(one_of, frozenset(f"{name}.call(" for name in names)), read_dotted)


def program(names: Collection[str]) -> Shape:
    """The form of what follows <|python_tag|> and has no other one, where tools have these names."""
    return Shape(lambda text: True, partial(read_program, names))
