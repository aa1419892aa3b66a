"""Filters that are written anew: those that order by keys, and those that Jinja would not pay for as they grow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial, reduce
from typing import Any

from jinja2.exceptions import FilterArgumentError
from jinja2.filters import FILTERS, ignore_case, make_attrgetter

from elm_mlx.text.chat.units import Markup, collision_units

WHOLE: Any = object()  # the path of an item itself
MAX_INDENT = 16


class Keys:
    """Stands for the environment where a filter reads the keys that it orders by: they are plain, and paid whole."""

    is_async = False

    def __init__(self, env: Any) -> None:
        self.env, self.undefined = env, env.undefined

    def getitem(self, item: Any, path: Any) -> Any:
        return self.env.budget.seen(item if path is WHOLE else self.env.getitem(item, path))


class Filters:
    """Jinja's filters, with the same arguments, for one sandbox."""

    def __init__(self, env: Any) -> None:
        self.env, self.budget, self.keys = env, env.budget, Keys(env)

    def named(self) -> dict[str, Callable[..., Any]]:
        """The filters by their names in templates."""
        ordered: dict[str, Callable[..., Any]] = {
            "dictsort": self.dictsort, "groupby": self.groupby, "max": partial(self.extreme, "max"),
            "min": partial(self.extreme, "min"), "sort": self.sort, "unique": self.unique,
        }  # fmt: skip
        return ordered | {"join": self.join, "list": self.letters, "safe": self.safe, "string": self.string,
                          "sum": self.total, "tojson": self.tojson}  # fmt: skip

    def sort(self, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None) -> Any:
        return FILTERS["sort"](self.keys, value, reverse, case_sensitive, WHOLE if attribute is None else attribute)

    def dictsort(self, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False) -> Any:
        if by not in ("key", "value"):
            raise FilterArgumentError('You can only sort by either "key" or "value"')
        return self.sort(value.items(), reverse, case_sensitive, 0 if by == "key" else 1)

    def extreme(self, name: str, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
        return FILTERS[name](self.keys, value, case_sensitive, WHOLE if attribute is None else attribute)

    def groupby(self, value: Any, attribute: Any, default: Any = None, case_sensitive: bool = False) -> list[Any]:
        """Groups as Jinja does by plain keys; the key of a group is as its first item has it, disguised."""
        read = make_attrgetter(self.env, attribute, default=default)
        groups = FILTERS["groupby"](self.keys, value, attribute, default, case_sensitive)
        return [type(group)(read(group.list[0]), group.list) for group in groups]

    def unique(self, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Iterator[Any]:
        """Keeps the first item of each key, as Jinja does by plain keys, whose comparisons are paid before."""
        path = WHOLE if attribute is None else attribute
        read = make_attrgetter(self.keys, path, postprocess=None if case_sensitive else ignore_case)  # type: ignore[arg-type]
        items = list(value)
        keys = list(map(read, items))
        self.budget.pay(collision_units(keys))
        first: dict[Any, Any] = {}
        for key, item in zip(keys, items, strict=True):
            first.setdefault(key, item)
        return iter(first.values())

    def total(self, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
        """Adds as Python's sum; lists are added, and paid, one by one, since each sum copies the one before."""
        items = map(make_attrgetter(self.env, attribute), iterable)
        if isinstance(start, list | tuple):
            return reduce(lambda left, right: self.env.call_binop(None, "+", left, right), items, start)
        return sum(items, start)

    def join(self, value: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
        items = value if attribute is None else map(make_attrgetter(self.env, attribute), value)
        shown = self.budget.shown
        return str(shown(d)).join(str(shown(item)) for item in items)

    def letters(self, value: Iterable[Any]) -> list[Any]:
        return [*self.budget.pay_each(value)]

    def string(self, value: Any) -> str:
        return value if isinstance(value, str) else str(self.budget.shown(value))

    def safe(self, value: Any) -> Any:
        return Markup(self.budget.shown(value))

    def tojson(
        self, value: object, ensure_ascii: bool = False, indent: int | str | None = None, separators: Any = None,
        sort_keys: bool = False,
    ) -> str:  # fmt: skip
        """Writes JSON as transformers' filter does; Jinja's own filter would escape it for HTML."""
        if (len(indent) if isinstance(indent, str) else indent or 0) > MAX_INDENT:
            raise ValueError(f"tojson indents by {MAX_INDENT} spaces at most")
        form = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return "".join(map(self.budget.pay_new, form.iterencode(value)))
