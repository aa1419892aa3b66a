"""Lets the operations of a chat template see through the disguise of control tokens, and only them.

The caller's strings reach a template disguised (disguise.py), so that what reads as a control token at the end is the
template's own. A template that looks for a token in a message would not find it. So each operation works in one of
three ways, none of which gives a disguised character back:

- By default it gets plain operands, and the texts in its result are disguised like a caller's, whoever wrote them.
- Operations in CARRY pass texts on as they are, and get them disguised.
- Operations in CUT find their places in the plain text, and cut the disguised one there: both have the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from elm_mlx.text.chat.formats import only_inserts
from elm_mlx.text.chat.units import CONTAINERS, VIEWS, Markup

# What passes its operands' texts, or letters of them, on as they are. The operations that call others by name do so
# through these again.
CARRY = frozenset(
    "|attr |batch |count |d |default |dictsort |first |groupby |items |join |last |length |list |map |max |min "
    "|reject |rejectattr |safe |select |selectattr |slice |sort |string |sum |unique "
    ".center .copy .cycle .fromkeys .get .items .join .keys .ljust .next .reset .rjust .values "
    "Cycler() Dicts() Joiner() Variables() format() is:callable is:defined is:iterable is:mapping is:none is:sameas "
    "is:sequence is:string is:undefined + * ".split()
)
INSERT = frozenset("|format %".split())  # pass on what they only put in
HIDING_UNITS = 256  # the cost of disguising a text, beside that of its letters: about eight microseconds
ESCAPING = frozenset("+ % |format |indent .join .replace".split())  # write HTML where an operand is marked as such

# How many letters an operation takes off the start of its text; those that are not here take none.
START: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("|trim", ".strip", ".lstrip"), lambda text, chars=None: len(text) - len(text.lstrip(chars))),
    ".removeprefix": lambda text, prefix: len(text) - len(text.removeprefix(prefix)),
}


def rebuilt(value: Any, items: Iterable[Any]) -> Any:
    """A list or tuple of the kind of `value`, the named tuples of groupby among them, of other items."""
    return getattr(value, "_make", type(value))(items)


class Hiding(Protocol):
    """What the sandbox needs of a Disguise: all of them keep the length of a text."""

    def __call__(self, text: str) -> str: ...
    def reveal(self, text: str) -> str: ...
    def name(self, text: str) -> str: ...


class Sight:
    """Runs operations on disguised texts; without a disguise, on texts as they are."""

    def __init__(self, disguise: Hiding | None = None) -> None:
        self.disguise = disguise
        self.pay: Callable[[int], None] = lambda units: None  # the budget puts its own here

    def reveal(self, value: Any) -> Any:
        """Returns a value without disguise, with all that it holds; for what only looks."""
        if self.disguise is None:
            return value
        if isinstance(value, str):
            return value if value.isascii() else self._plain(value)
        if isinstance(value, list | tuple):
            return rebuilt(value, map(self.reveal, value))
        if isinstance(value, dict):
            return {self.reveal(key): self.reveal(item) for key, item in value.items()}
        if isinstance(value, VIEWS):
            plain = self.reveal(dict(value.mapping))
            return getattr(plain, type(value).__name__.removeprefix("dict_"))()
        return value

    def _plain(self, text: str) -> str:
        self.pay(len(text))
        return self.disguise.reveal(text) if self.disguise else text

    def hide(self, value: Any, edit: Callable[[str], str]) -> Any:
        """Disguises a value with all that it holds, every text by `edit`."""
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, str):
            self.pay(HIDING_UNITS + len(value))
            return Markup(edit(str(value))) if isinstance(value, Markup) else edit(value)
        again = partial(self.hide, edit=edit)
        if isinstance(value, list | tuple):
            return rebuilt(value, map(again, value))
        if isinstance(value, dict):
            return {again(key): again(item) for key, item in value.items()}
        return map(again, value) if isinstance(value, Iterator) else value

    def redo(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls on plain operands, and disguises the result; of names, and of the template's own texts, as a name."""
        if self.disguise is None:
            return call(*args, **kwargs)
        plain, named = self.reveal([*args]), self.reveal(kwargs)
        edit = self.disguise.name if plain == [*args] and named == kwargs else self.disguise
        return self.hide(call(*plain, **named), edit)

    def text(self, value: Any) -> Any:
        """A value to be written: that of a list or object as text, since Python would quote disguised characters."""
        return value if self.disguise is None or not isinstance(value, CONTAINERS) else self.redo(str, value)

    def key(self, mapping: Any, key: Any) -> Any:
        """The form in which an object has a key: a caller's is disguised, and a template names it as it is."""
        if self.disguise is None or not isinstance(mapping, dict) or not isinstance(key, str) or key in mapping:
            return key
        plain = self.reveal(key)
        return next((form for form in (plain, self.disguise.name(plain), self.disguise(plain)) if form in mapping), key)

    def see(self, name: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls an operation in one of the three ways, which its name decides."""
        if self.disguise is None:
            return call(*args, **kwargs)
        if name == ".get":
            args = (args[0], *(self.key(args[0], key) for key in args[1:2]), *args[2:])
        if name in ESCAPING and any(isinstance(one, Markup) for one in args):
            return self.redo(call, *args, **kwargs)
        if name in CARRY or (name in INSERT and only_inserts(str(args[0]), kwargs or args[1:])):
            return call(*args, **kwargs)
        if name in CUT and isinstance(args[0], str):
            return CUT[name](self, name, call, *args, **kwargs)
        return self.redo(call, *args, **kwargs)


def pieces(text: str, plain: str, parts: Iterable[str], start: int = 0, gap: int = 0) -> Iterator[str]:
    """Yields the pieces of a disguised text where `parts` stand in the plain one, `gap` letters apart.

    Without a gap, what stands between is white space or line ends, with which no part begins.
    """
    for part in parts:
        start = plain.index(part, start)
        yield text[start : start + len(part)]
        start += len(part) + gap


def cut(sight: Sight, name: str, call: Callable[..., Any], text: str, *args: Any, **kwargs: Any) -> Any:
    """Cuts a text into one, several or three pieces, at the places where the plain text is cut."""
    args, kwargs = sight.reveal(args), sight.reveal(kwargs)
    plain = sight.reveal(text)
    found = call(plain, *args, **kwargs)
    if isinstance(found, str):
        start = START[name](plain, *args, **kwargs) if found and name in START else 0
        return next(pieces(text, plain, [found], start))
    between = kwargs.get("sep", args[0] if args else None) if name in (".split", ".rsplit") else None
    return type(found)(pieces(text, plain, found, gap=len(between or "")))


def replace(sight: Sight, _name: str, call: Callable[..., Any], text: str, old: Any, new: Any, count: Any = -1) -> Any:
    """Puts `new` between the pieces that `old` stands between in the plain text."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return sight.redo(call, text, old, new, count)
    plain, old, most = sight.reveal(text), sight.reveal(old), -1 if count is None else count
    if old:
        return new.join(pieces(text, plain, plain.split(old, most), gap=len(old)))
    places = len(plain) + 1 if most < 0 else min(most, len(plain) + 1)
    parts = ["", *plain[: places - 1], plain[places - 1 :]] if places else [plain]
    return new.join(pieces(text, plain, parts))


def indent(
    sight: Sight, _name: str, _call: object, text: str, width: Any = 4, first: bool = False, blank: bool = False
) -> str:
    """Indents the lines of the plain text as Jinja does: not the first, nor empty ones, unless asked."""
    space = width if isinstance(width, str) else " " * width
    plain = sight.reveal(text + "\n")
    head, *rest = pieces(text + "\n", plain, plain.splitlines())
    whole = "\n".join([head, *(space + line if line or blank else line for line in rest)])
    return space + whole if first else whole


def widen(_sight: Sight, _name: str, call: Callable[..., Any], text: str, *args: Any, **kwargs: Any) -> Any:
    """Puts blanks around a text, which may stay disguised. (|center writes any other value as a text: see `see`.)"""
    return call(text, *args, **kwargs)


CUT: dict[str, Callable[..., Any]] = {
    **dict.fromkeys("|trim .strip .lstrip .rstrip .removeprefix .removesuffix .split .rsplit .splitlines .partition "
                    ".rpartition".split(), cut),
    **dict.fromkeys(("|replace", ".replace"), replace),
    "|indent": indent,
    "|center": widen,
}  # fmt: skip
