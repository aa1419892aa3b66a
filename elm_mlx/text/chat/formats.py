"""Formats of texts in chat templates, '%5d' % n and '{:>5}'.format(n), paid before they are written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.sandbox import SandboxedEscapeFormatter, SandboxedFormatter

from elm_mlx.text.chat.units import CONTAINERS, Markup, units_of

# One conversion: (name) flags width .precision kind. Python reads the same, and at most nine digits fit a budget.
CONVERSION = re.compile(r"%(?:\([^()]*\))?[#0\- +]*([0-9]{1,9}|\*)?(?:\.([0-9]{1,9}|\*)?)?[hlL]?([diouxXeEfFgGcrsa%])")
NUMBER_LETTERS = 400  # more than '%f' writes of any float


def percent_units(text: str, values: Any) -> int:
    """The units of `text % values`. Raises ValueError for conversions that it cannot tell the length of."""
    if "%" in CONVERSION.sub("", text):
        raise ValueError("a % format is unknown in Python, or has a width of over nine digits")
    found = CONVERSION.findall(text)
    given = values if isinstance(values, tuple) else (values,)
    starred = max((abs(one) for one in given if isinstance(one, int)), default=0)
    widths = (starred if width == "*" else int(width or 0) for width in (w for one in found for w in one[:2]))
    return sum(widths) + len(found) * (NUMBER_LETTERS + units_of(values))


def only_inserts(text: str, values: Any) -> bool:
    """Whether `text % values` puts texts in as they are: none quoted, none cut, no list or object written out."""
    plain = all((precision == "" and kind == "s") or kind not in "sra" for _, precision, kind in
                CONVERSION.findall(text))  # fmt: skip
    if isinstance(values, tuple) and len(values) == 1 and isinstance(values[0], tuple | dict):
        values = values[0]
    values = values if isinstance(values, tuple) else (*values.values(),) if isinstance(values, dict) else (values,)
    return plain and not any(isinstance(one, CONTAINERS) for one in values)


class Formatter(SandboxedFormatter):
    """str.format as Jinja's sandbox has it, in which every field pays for what it reads and writes."""

    def __init__(self, env: Any, budget: Any, **kwargs: Any) -> None:
        super().__init__(env, **kwargs)
        self.budget = budget

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        found, first = super().get_field(field_name, args, kwargs)
        return self.budget.pay_whole(found), first

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is None or (conversion == "s" and isinstance(value, str)):
            return value
        return self.budget.sight.redo(super().convert_field, value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        """Writes one field."""
        self.budget.pay(sum(map(int, re.findall(r"\d+", format_spec))))
        if not format_spec:
            value = self.budget.sight.text(value)
        return self.budget.pay_new(super().format_field(value, format_spec))


class MarkupFormatter(Formatter, SandboxedEscapeFormatter):
    """Formats texts that are marked as HTML: what is put in is escaped."""


def format_text(env: Any, budget: Any, text: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Formats `text` as str.format does, with all looked up as the sandbox `env` allows."""
    if not isinstance(text, Markup):
        return Formatter(env, budget).vformat(text, args, kwargs)
    formatter = MarkupFormatter(env, budget, escape=text.escape)
    return Markup(budget.sight.redo(formatter.vformat, str(text), args, kwargs))
