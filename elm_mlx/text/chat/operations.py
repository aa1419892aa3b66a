"""What chat templates may use of Jinja and Python, and what is refused, with the reason.

All that transformers' sandbox offers is here, or in REFUSED; docs/chat.md repeats REFUSED.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from jinja2.runtime import LoopContext
from jinja2.utils import Cycler

from elm_mlx.text.chat.units import Markup

FILTERS = frozenset(
    "abs attr batch capitalize center count d default dictsort e escape filesizeformat first float forceescape format "
    "groupby indent int items join last length list lower map max min reject rejectattr replace reverse round safe "
    "select selectattr slice sort string striptags sum title tojson trim truncate unique upper urlencode wordcount "
    "wordwrap xmlattr".split()
)
TESTS = frozenset(
    "!= < <= == > >= boolean callable defined divisibleby eq equalto escaped even false filter float ge greaterthan gt "
    "in integer iterable le lessthan lower lt mapping ne none number odd sameas sequence string test true undefined "
    "upper".split()
)


class Dicts:
    """The global `dict`: makes objects, and shows nothing of Python's type."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


METHODS: dict[type, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        str: "capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha "
        "isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower "
        "lstrip partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split "
        "splitlines startswith strip swapcase title upper zfill",
        list: "copy count index",
        tuple: "count index",
        dict: "copy fromkeys get items keys values",
        int: "as_integer_ratio bit_count bit_length conjugate is_integer",
        float: "as_integer_ratio conjugate hex is_integer",
        range: "count index",
        Markup: "striptags unescape",
        LoopContext: "changed cycle",
        Cycler: "next reset",
        Dicts: "fromkeys",
    }.items()
}


class Refusal(NamedTuple):
    """Names of one kind that transformers' sandbox offers, or Jinja has, and that are refused for one reason."""

    kind: str
    names: str
    reason: str


IN_PLACE = "changes a value in place; transformers refuses it, too"
BYTES = "makes or reads bytes, which are no text"
REFUSED = (
    Refusal("filter", "pprint", "is for debugging, and needs more time than its text is long"),
    Refusal("filter", "random", "makes another prompt of the same messages each time"),
    Refusal("filter", "urlize", "makes links of HTML, in more time than its text is long"),
    Refusal("global", "lipsum", "makes another prompt of the same messages each time"),
    Refusal("str", "encode", BYTES),
    Refusal("str", "maketrans translate", "replaces single characters by their numbers; replace does without"),
    Refusal("list", "append clear extend insert pop remove reverse sort", IN_PLACE),
    Refusal("dict", "clear pop popitem setdefault update", IN_PLACE),
    Refusal("int", "from_bytes to_bytes", BYTES),
    Refusal("float", "fromhex", "is reached through Python's type, not through a number"),
    Refusal("tag", "autoescape", "makes all texts HTML"),
    Refusal("tag", "block extends from import include", "joins several templates, and a chat has one"),
)
REASONS = {(one.kind, name): one.reason for one in REFUSED for name in one.names.split()}


def method_reason(value: object, name: str) -> str:
    """Why an attribute of a value is refused, as the end of a sentence."""
    reasons = [reason for (kind, known), reason in REASONS.items() if known == name and kind == type(value).__name__]
    return f": it {reasons[0]}" if reasons else ""
