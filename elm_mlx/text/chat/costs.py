"""What the operations of chat templates cost beyond their operands and their result, because they make more.

Operations are named "|filter", ".method", "is test", "function()" or by their sign.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from elm_mlx.text.chat.formats import percent_units
from elm_mlx.text.chat.messages import MAX_BITS
from elm_mlx.text.chat.units import VALUE_UNITS, Overrun, collision_units, own_units

# Operations that do not walk their subject, or only item by item on request.
SHALLOW = frozenset(
    "|attr |count |d |default |first |items |last |length |list |map |reject |rejectattr |reverse |select |selectattr "
    ".copy .cycle .get .items .keys .values is:callable is:defined is:false is:iterable is:mapping is:none is:sameas "
    "is:sequence is:string is:true is:undefined".split()
)
LINE_END = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def lines(text: Any) -> int:
    """The most lines that a text has."""
    return 1 + sum(1 for _ in LINE_END.finditer(text))


def letters(value: Any) -> int:
    return len(str(value))


def product_units(left: Any, right: Any) -> int:
    """The units of a text or list that * repeats; none for a product of numbers."""
    text, number = (right, left) if isinstance(left, int) else (left, right)
    return own_units(text) * max(number, 0) if isinstance(text, str | list | tuple) and isinstance(number, int) else 0


def power_units(base: Any, exponent: Any) -> int:
    """Raises Overrun for a power of more bits than a number may have; all others cost nothing more."""
    whole = isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1
    if whole and (base.bit_length() - 1) * exponent > MAX_BITS:
        raise Overrun
    return 0


def remainder_units(left: Any, right: Any) -> int:
    return percent_units(left, right) if isinstance(left, str) else 0


def join_units(one: Any, d: Any = "", attribute: object = None) -> int:
    """The units of a join: the filter's (items, separator) or the method's (separator, items); a text has letters."""
    return len(one) * letters(d) + VALUE_UNITS * sum(len(text) for text in (one, d) if isinstance(text, str))


def replace_units(text: Any, old: Any = "", new: Any = "", count: object = None) -> int:
    return str(text).count(str(old)) * (VALUE_UNITS + letters(new))


def indent_units(text: Any, width: Any = 4, first: object = False, blank: object = False) -> int:
    return lines(text) * (VALUE_UNITS + (len(width) if isinstance(width, str) else width))


def wordwrap_units(
    text: Any, width: Any = 79, break_long_words: object = True, wrapstring: Any = "", break_on_hyphens: object = True
) -> int:
    """Every letter may be a line, and the rest of a long word is copied for each of its lines."""
    return len(text) * (2 * VALUE_UNITS + len(wrapstring or "")) + len(text) ** 2 // (256 * max(width, 1))


def path_units(_: object, *args: Any, **kwargs: Any) -> int:
    """The units of an attribute's path, "a.b.c", or of several, "a,b"."""
    texts = [one for one in (*args, *kwargs.values()) if isinstance(one, str)]
    return VALUE_UNITS * sum(text.count(".") + text.count(",") for text in texts)


def key_units(_: object, pairs: Any = (), /, **kwargs: object) -> int:
    return 0 if isinstance(pairs, dict) else collision_units(key for key, *_ in pairs)


def for_each(names: str, cost: Callable[..., int]) -> dict[str, Callable[..., int]]:
    return dict.fromkeys(names.split(), cost)


def parts(text: Any, sep: Any = None, maxsplit: object = -1) -> int:
    return VALUE_UNITS * (text.count(sep) if sep else len(text) // 2)


def backward_units(text: Any, sep: Any, *_: object) -> int:
    """The units of a search from the end, which may compare all of `sep` at every place, unlike one from the start."""
    return len(text) * len(sep) // VALUE_UNITS


def rsplit_units(text: Any, sep: Any = None, maxsplit: object = -1) -> int:
    return parts(text, sep) + backward_units(text, sep or "")


def rows(_: object, linecount: Any, fill_with: object = None) -> int:
    return 0 if fill_with is None else VALUE_UNITS * linecount


def digits(value: object, precision: Any = 0, method: object = "") -> int:
    return power_units(10, abs(precision))


def each_key(_: object, keys: Iterable[Any] = (), value: object = None) -> int:
    return collision_units(keys)


COSTS: dict[str, Callable[..., int]] = {
    "*": product_units, "**": power_units, "%": remainder_units,
    **for_each("|trim .strip .lstrip .rstrip", lambda text, chars=None: letters(text) * len(chars or "")),
    **for_each("|center .center .ljust .rjust .zfill", lambda text, width=80, fill=" ": width),
    **for_each("|join .join", join_units),
    **for_each("|replace .replace", replace_units),
    **for_each(".rfind .rindex .rpartition", backward_units),
    ".split": parts,
    ".rsplit": rsplit_units,
    **for_each("|title |wordcount |striptags |urlencode .unescape .striptags",
               lambda value: VALUE_UNITS * letters(value)),
    **for_each("|map |selectattr |rejectattr |sort |unique |groupby |min |max |sum", path_units),
    "|format": lambda text, *args, **kwargs: percent_units(str(text), kwargs or args),
    "|indent": indent_units,
    "|wordwrap": wordwrap_units,
    "|xmlattr": lambda value, autospace=True: 8 * letters(value),
    "|batch": rows,
    "|round": digits,
    ".splitlines": lambda text, keepends=False: VALUE_UNITS * lines(text),
    ".expandtabs": lambda text, tabsize=8: text.count("\t") * tabsize,
    **for_each("Dicts() Variables()", key_units),
    ".fromkeys": each_key,
    "strftime_now()": lambda _, format: 256 * len(format),
}  # fmt: skip
