"""What a template may use renders as in transformers' environment; all else that Jinja has is refused, with why."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_NAMESPACE, DEFAULT_TESTS
from jinja2.sandbox import ImmutableSandboxedEnvironment

from elm_mlx.text.chat import operations, sandbox

DOCS = Path(__file__).parents[3] / "docs" / "chat.md"
VALUES: dict[str, Any] = {
    "t": " aB c\n\n\tdé-<b>ß</b> 'x' & y12\r\nzz ",
    "ws": ["b", "A", "a", "c", "B"],
    "rows": [
        {"k": "b", "n": 2, "in": {"z": 1}},
        {"k": "A", "n": 1, "in": {"z": 3}},
        {"k": "a", "n": 2, "in": {"z": 2}},
    ],
    "d": {"b": "x y", "A": "Z", "c/d": "é&"},
    "u": [3, 1.5, -2],
}
USES = {
    "|abs": ["-3 | abs"], "|attr": ["d | attr('b')", "t | attr('upper')()", "(rows | groupby('k'))[0] | attr('list')"],
    "|batch": ["ws | batch(2) | list", "ws | batch(2, '-') | list"], "|capitalize": ["t | trim | capitalize"],
    "|center": ["'ab' | center(7)", "'ab' | center"], "|count": ["ws | count"], "|d": ["nothing | d('x')"],
    "|default": ["'' | default('x', true)"], "|dictsort": ["d | dictsort", "d | dictsort(true, 'value', true)"],
    "|e": ["t | e", "('<' | e) + '<'"], "|escape": ["t | escape"],
    "|filesizeformat": ["12345678 | filesizeformat(true)"],
    "|first": ["ws | first"], "|float": ["'1.5' | float", "'x' | float(2)"], "|forceescape": ["'<' | e | forceescape"],
    "|format": ["'%s-%03d%%' | format('x', 7)", "'%(a)5.1f|%(a)r' | format(a=1.25)",
                "'%-*s|%.2s' | format(5, 'ab', 'abc')"],
    "|groupby": ["rows | groupby('k')", "rows | groupby('in.z', case_sensitive=true) | map(attribute='grouper') | list",
                 "rows | groupby('q', default='-')"],
    "|indent": ["t | indent", "t | indent(2, true)", "t | indent('> ', blank=true)"], "|int": ["'0x1f' | int(base=16)"],
    "|items": ["d | items | list"], "|join": ["u | join('-')", "rows | join(', ', attribute='k')"],
    "|last": ["ws | last"],
    "|length": ["t | length"], "|list": ["'abc' | list"], "|lower": ["t | lower"],
    "|map": ["rows | map(attribute='in.z') | list", "ws | map('upper') | list",
             "rows | map(attribute='q', default=0) | list"],
    "|max": ["ws | max", "rows | max(attribute='in.z')"], "|min": ["ws | min(true)", "[] | min"],
    "|reject": ["u | reject('gt', 1) | list"], "|rejectattr": ["rows | rejectattr('n', 'eq', 2) | list"],
    "|replace": ["t | replace('\n', '--', 2)", "'ab' | replace('', '-')", "12 | replace(1, 3)"],
    "|reverse": ["ws | reverse | list", "'abc' | reverse"],
    "|round": ["2.567 | round(1)", "2.5 | round(method='floor')", "1234 | round(-2)"],
    "|safe": ["('<b>' | safe) + '<'", "[1] | safe"], "|select": ["u | select('gt', 1) | list",
                                                                 "[0, 1] | select | list"],
    "|selectattr": ["rows | selectattr('in.z', 'gt', 1) | map(attribute='k') | list"],
    "|slice": ["ws | slice(2) | list", "ws | slice(2, '-') | list"],
    "|sort": ["ws | sort", "ws | sort(true, true)", "rows | sort(attribute='n,k')", "rows | sort(attribute='in.z')"],
    "|string": ["u | string", "d | string"], "|striptags": ["t | striptags"],
    "|sum": ["u | sum", "rows | sum(attribute='n')", "[[1], [2, 3]] | sum(start=[0])"], "|title": ["t | title"],
    "|tojson": ["d | tojson", "d | tojson(true, '\t', (',', ':'), true)", "[d] | tojson(indent=2) | indent(2, true)"],
    "|trim": ["t | trim", "'xax' | trim('x')"], "|truncate": ["t | truncate(9)", "t | truncate(5, true, '~', 0)"],
    "|unique": ["ws | unique | list", "ws | unique(true) | list", "rows | unique(attribute='n') | list"],
    "|upper": ["t | upper"], "|urlencode": ["t | urlencode", "d | urlencode", "['ab'] | urlencode"],
    "|wordcount": ["t | wordcount"], "|wordwrap": ["t | wordwrap(3)", "t | wordwrap(4, false, '|')"],
    "|xmlattr": ["{'a': '<', 'b': none, 'c': 1} | xmlattr", "{} | xmlattr(false)"],
    "str.capitalize": ["t.strip().capitalize()"], "str.casefold": ["t.casefold()"],
    "str.center": ["'a'.center(5, '*')"],
    "str.count": ["t.count('b')", "'aaa'.count('a', 1)"], "str.endswith": ["t.endswith('zz ')",
                                                                           "t.endswith(('q', ' '))"],
    "str.expandtabs": ["t.expandtabs()", "'a\tb'.expandtabs(tabsize=3)"], "str.find": ["t.find('c', 3)", "t.find('q')"],
    "str.format": ["'{0}{n!r:>5}{0:>5}{1[b]}{1.A}{{'.format(1, d, n='x')", "'{:{w}.2f}|{!s}'.format(1.5, u, w=9)",
                   "('<{}>' | safe).format('<')", "'{} {}'.format('a')"],
    "str.format_map": ["'{b}{A:>3}'.format_map(d)"], "str.index": ["t.index('c')"], "str.isalnum": ["'a1'.isalnum()"],
    "str.isalpha": ["'a1'.isalpha()"], "str.isascii": ["t.isascii()"], "str.isdecimal": ["'1'.isdecimal()"],
    "str.isdigit": ["'12'.isdigit()"], "str.isidentifier": ["'a'.isidentifier()"], "str.islower": ["'a'.islower()"],
    "str.isnumeric": ["'1'.isnumeric()"], "str.isprintable": ["t.isprintable()"], "str.isspace": ["' '.isspace()"],
    "str.istitle": ["'A'.istitle()"], "str.isupper": ["'A'.isupper()"], "str.join": ["', '.join(ws)"],
    "str.ljust": ["'a'.ljust(4, '.')"], "str.lower": ["t.lower()"], "str.lstrip": ["t.lstrip()", "'xxa'.lstrip('x')"],
    "str.partition": ["t.partition('\n')", "t.partition('q')"], "str.removeprefix": ["t.removeprefix(' a')"],
    "str.removesuffix": ["t.removesuffix('zz ')"], "str.replace": ["t.replace('b', 'cc', 1)",
                                                                   "('<' | e).replace('&', '<')"],
    "str.rfind": ["t.rfind('b')"], "str.rindex": ["t.rindex('b')"], "str.rjust": ["'a'.rjust(4)"],
    "str.rpartition": ["t.rpartition('b')"], "str.rsplit": ["t.rsplit(' ', 1)", "t.rsplit(maxsplit=2)", "t.rsplit()"],
    "str.rstrip": ["t.rstrip()"], "str.split": ["t.split()", "t.split('b')", "t.split(' ', maxsplit=1)",
                                                "t.split(none, 1)"],
    "str.splitlines": ["t.splitlines()", "t.splitlines(keepends=true)"], "str.startswith": ["t.startswith('a', 1)"],
    "str.strip": ["t.strip()", "t.strip(' az')"], "str.swapcase": ["t.swapcase()"], "str.title": ["t.title()"],
    "str.upper": ["t.upper()"], "str.zfill": ["'-7'.zfill(4)"],
    "list.copy": ["ws.copy()"], "list.count": ["ws.count('a')"], "list.index": ["ws.index('a')"],
    "tuple.count": ["(1, 2, 1).count(1)"], "tuple.index": ["(1, 2).index(2)"],
    "dict.copy": ["d.copy()"], "dict.fromkeys": ["{}.fromkeys(ws, 1)"], "dict.get": ["d.get('q', 1)"],
    "dict.items": ["d.items()", "d.items() | list"], "dict.keys": ["d.keys()", "'b' in d.keys()", "d.keys() | last"],
    "dict.values": ["d.values()", "d.values() | sort", "d.keys() is sequence"],
    "int.as_integer_ratio": ["(3).as_integer_ratio()"], "int.bit_count": ["(7).bit_count()"],
    "int.bit_length": ["(7).bit_length()"], "int.conjugate": ["(3).conjugate()"], "int.is_integer": ["[].index(0)"],
    "float.as_integer_ratio": ["(1.5).as_integer_ratio()"], "float.conjugate": ["(1.5).conjugate()"],
    "float.hex": ["(1.5).hex()"], "float.is_integer": ["(2.0).is_integer()"],
    "range.count": ["range(3).count(1)"], "range.index": ["range(3).index(1)"],
    "Markup.striptags": ["('<b>a</b>' | safe).striptags()"], "Markup.unescape": ["('<' | e).unescape()"],
    "Cycler.next": ["cycler('a', 'b').next()"], "Cycler.reset": ["cycler('a').reset()"],
    "Dicts.fromkeys": ["dict.fromkeys('ab', 2)"],
    "operators": ["2 ** 10", "2 ** 4000 % 97",
                  "2 ** -1", "2 ** 0.5", "7 // 2", "-7 % 3", "'%d%% %s' % (5, 'x')", "'%(k)s' % rows[0]",
                  "'%s' % ws",
                  "'a' * 3 + 'b'", "[1] + [2]", "1 + 1.5", "t[2:-1:2]", "t[3]", "'a' < 'b' < 'c'", "+3 - -2",
                  "'%s' % 'a'"],
    "globals": ["dict(a=1, **{'b': 2})", "dict([('a', 1)])", "namespace(a=1).a", "range(2, 9, 3) | list",
                "lipsum is defined"],
    "markup": ["('<' | safe) ~ '<'", "['<' | safe, '<'] | join", "('%s' | safe) % '<'"],
    "odd one": ["nothing.upper", "'{0.__class__}'.format(1)", "t | attr('__class__')",
                "ws | map(attribute='__class__') | list"],
}  # fmt: skip
TESTED = {
    "in": "'a' is in ws", "divisibleby": "4 is divisibleby 2", "sameas": "none is sameas none",
    "filter": "'trim' is filter",
    "test": "'odd' is test", "callable": "range is callable", "number": "1.5 is number", "mapping": "d is mapping",
}  # fmt: skip
STATEMENTS = {
    "a loop within itself": "{% for x in [1, [2, [3]]] recursive %}{{ loop.depth }}{{ loop.first }}{{ loop.length }}"
    "{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% else %}-{% endfor %}",
    "a block given to a macro": "{% macro m(a) %}{{ caller(a) }}{% endmacro %}{% call(x) m(1) %}{{ x }}!{% endcall %}",
    "a filter over a block": "{% filter indent(2, true) | upper %}a\nb{{ t }}{% endfilter %}",
    "a captured block": "{% set x | trim %} a {{ ws }}{% endset %}[{{ x }}]",
    "counting": "{% set ns = namespace(n=0) %}{% for w in ws %}{% set ns.n = ns.n + 2 ** loop.index %}"
    "{{ loop.changed(w | lower) }}{{ loop.cycle('a', 'b') }}{% endfor %}{{ ns.n }}",
    "a name with an underscore": "{{ namespace(_a=1) }}",
    "such a name, later": "{% set ns = namespace() %}{% set ns._a = 1 %}",
}  # fmt: skip


class TheirDict:
    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


@cache
def theirs() -> ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up."""
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])

    def tojson(
        x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals |= {"dict": TheirDict(), "namespace": sandbox.Variables}
    return env


def check(source: str) -> str:
    """Renders in both, requires one text or that both fail, and returns the text; "" where both fail."""
    try:
        wanted = theirs().from_string(source).render(VALUES)
    except Exception:
        with pytest.raises((sandbox.TemplateFault, sandbox.TemplateRefusal)):
            sandbox.render(sandbox.compile_template(source), VALUES)
        return ""
    assert sandbox.render(sandbox.compile_template(source), VALUES) == wanted
    return wanted


@pytest.mark.parametrize("name", USES)
def test_what_is_allowed_renders_as_transformers_does(name: str) -> None:
    texts = [check("[{{ " + use + " }}]") for use in USES[name]]
    assert any(texts) or name == "int.is_integer"


@pytest.mark.parametrize("name", sorted(operations.TESTS))
def test_tests_answer_as_transformers_do(name: str) -> None:
    values = ("1", "2.5", "'a'", "'A'", "none", "nothing", "d", "('<' | e)")
    uses = [f"{value} is {name}" for value in values if name.isalpha()]
    uses += [f"[1, 3, 2] | select('{name}', 2) | list", *([TESTED[name]] if name in TESTED else [])]
    texts = [check("[{{ " + use + " }}]") for use in uses]
    assert any(texts)


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_render_as_transformers_do(name: str) -> None:
    assert bool(check(STATEMENTS[name])) is (" name" not in name)


def allowed_or_refused(kind: str, names: set[str], allowed: set[str]) -> None:
    refused = {name for known, name in operations.REASONS if known == kind}
    assert allowed | refused == names
    assert not allowed & refused


def test_every_filter_test_and_global_of_jinja_is_allowed_or_refused_with_its_reason() -> None:
    allowed_or_refused("filter", set(DEFAULT_FILTERS), set(operations.FILTERS))
    allowed_or_refused("test", set(DEFAULT_TESTS), set(operations.TESTS))
    allowed_or_refused("global", set(DEFAULT_NAMESPACE), {"range", "dict", "cycler", "joiner", "namespace"})
    assert {f"|{name}" for name in operations.FILTERS} <= set(USES)


@pytest.mark.parametrize("kind", [str, list, tuple, dict, int, float, range])
def test_every_method_of_a_value_is_allowed_or_refused_with_its_reason(kind: type) -> None:
    methods = {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}
    newer = {"is_integer"} - methods  # int's since Python 3.12
    allowed_or_refused(kind.__name__, methods | (newer if kind is int else set()), set(operations.METHODS[kind]))
    assert {f"{kind.__name__}.{name}" for name in operations.METHODS[kind]} <= set(USES)


def test_the_docs_repeat_what_is_refused() -> None:
    rows = re.findall(r"^\| (\w+) \| (`.*`) \| (.*) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert [(kind, names.replace("`", "").replace(",", ""), why) for kind, names, why in rows] == [
        (one.kind, one.names, one.reason) for one in operations.REFUSED
    ]


REFUSED_USES = {
    "{{ 1 }}\n{{ [1] | random }}": "line 2: the filter random is refused, since it makes another prompt",
    "\n\n{{ lipsum() }}": "line 3: the global lipsum is refused, since",
    "{% if true %}\n{{ 'a'.encode() }}\n{% endif %}": "line 2: encode of a value of type str is refused: it makes or",
    "{% for w in ws %}\n{{ ws.append(w) }}{% endfor %}": "line 2: append of a value of type list is refused: it",
    "{{ 1 }}\n{{ t.__class__.x }}": "line 2: __class__ of a value of type str is refused",
    "{{ (d | attr('pop'))('b') }}": "line 1: pop of a value of type dict is refused: it changes a value",
}


@pytest.mark.parametrize("source", REFUSED_USES)
def test_a_refusal_says_the_line_the_operation_and_why(source: str) -> None:
    with pytest.raises(sandbox.TemplateFault, match=re.escape(REFUSED_USES[source])):
        sandbox.render(sandbox.compile_template(source), VALUES)


@pytest.mark.parametrize("tag", ["block b %}{% endblock", "autoescape true %}{% endautoescape", "include 'x'",
                                 "extends 'x'",
                                 "import 'x' as y", "from 'x' import y"])  # fmt: skip
def test_a_tag_that_is_refused_says_its_line_and_why(tag: str) -> None:
    with pytest.raises(ValueError, match=rf"line 2: the tag {tag.split()[0]} is refused, since it "):
        sandbox.compile_template("\n{% " + tag + " %}")


def test_what_is_refused_fails_only_where_it_is_used() -> None:
    source = "{% if nothing %}{{ [1] | random ~ 'a'.encode() ~ lipsum() }}{% endif %}x"
    assert sandbox.render(sandbox.compile_template(source), VALUES) == "x"
