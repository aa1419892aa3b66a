"""Chat templates that run away or break out are refused within bounds of time and memory."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import pytest
from helpers import chat_templates as written
from jinja2 import TemplateSyntaxError
from tokenizers import AddedToken

from elm_mlx.errors import BadCheckpoint
from elm_mlx.text.added_tokens import AddedTokens
from elm_mlx.text.chat import sandbox
from elm_mlx.text.chat.disguise import Disguise
from elm_mlx.text.chat.messages import plain_json
from elm_mlx.text.chat.template import ChatTemplate

# A whole budget takes about a second of the processor's time: thirty stand for what nobody counted, on any machine.
GUARDED_SECONDS, GUARDED_BYTES = 30, 200 * 2**20
PROC = Path("/proc/self")
R = "range(99999)"
DOUBLED = "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = "
LAUGHS = "{% set a = ['ha', 'ha'] %}" + "{% set a = [a, a, a, a, a, a, a, a] %}" * 12
TALL = "{% set ns = namespace(t=()) %}{% for i in range(9999) %}{% set ns.t = (ns.t,) %}{% endfor %}"
ATTACKS = {
    "nested loops": f"{{% for a in {R} %}}{{% for b in {R} %}}{{% endfor %}}{{% endfor %}}",
    "loops that a test empties": f"{{% for a in {R} %}}{{% for b in {R} if false %}}{{% endfor %}}{{% endfor %}}",
    "loop of text": f"{{% for a in {R} %}}{'x' * 20_000}{{% endfor %}}",
    "captured text": f"{{% set x %}}{{% for a in {R} %}}{'x' * 20_000}{{% endfor %}}{{% endset %}}",
    "loop over letters": "{% for a in 'x' * 9999 %}{% for b in 'x' * 9999 %}{% endfor %}{% endfor %}",
    "times": "{{ 'x' * 1000000000 }}",
    "times from the left": "{{ 1000000000 * 'x' }}",
    "times a list": "{{ [1] * 1000000000 }}",
    "times a list in a list": "{{ [[0] * 9999] * 9999 }}",
    "deep json": "{% set ns = namespace(l=[0] * 99999) %}{% for i in range(60) %}{% set ns.l = [ns.l] %}{% endfor %}"
    "{{ ns.l | tojson(indent=16) }}",
    "keys without a tall tuple": TALL + "{{ {}.keys() - [ns.t] }}",
    "dict views of a tall tuple": TALL + "{{ {'a': ns.t}.items() - [] }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "power of a fraction": "{{ 2 ** -99999999999 }}{{ 9.5 ** 9999 }}",
    "squares": "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "a long number": "{{ 0x" + "f" * 60_000 + " % 3 }}",
    "huge range": "{{ range(1000000000) }}",
    "filter center": "{{ 'x' | center(1000000000) }}",
    "method center": "{{ 'x'.center(1000000000) }}",
    "ljust": "{{ 'x'.ljust(1000000000) }}",
    "zfill": "{{ 'x'.zfill(1000000000) }}",
    "expandtabs": "{{ '\\t'.expandtabs(1000000000) }}",
    "translate": "{{ 'aaaa'.translate({97: 'b' * 99999}) }}",
    "to_bytes": "{{ (1).to_bytes(1000000000) }}",
    "indent": "{{ 'x\\ny' | indent(1000000000) }}",
    "indent by text": "{{ ('x\\n' * 9999) | indent('y' * 99999) }}",
    "indented json": "{{ [[[1]]] | tojson(indent=1000000000) }}",
    "json separators": "{{ ([1] * 9999) | tojson(separators=(',' * 99999, ':')) }}",
    "percent": "{{ '%99999999d' % 1 }}",
    "percent, precise": "{{ '%.99999999f' % 1 }}",
    "percent, width given": "{{ '%*d' % (99999999, 1) }}",
    "percent, often": "{{ ('%999d' * 99999) % (((1,) * 99999)) }}",
    "format filter": "{{ '%99999999d' | format(1) }}",
    "format filter, product": "{{ ('%(a)s' * 9999) | format(a='x' * 9999) }}",
    "str.format": "{{ '{:99999999}'.format(1) }}",
    "str.format, width given": "{{ '{:{w}}'.format(1, w=99999999) }}",
    "str.format, product": "{{ ('{0}' * 9999).format('x' * 9999) }}",
    "str.format of classes": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format_map": "{{ '{a:99999999}'.format_map({'a': 1}) }}",
    "replace": "{{ ('x' * 99999) | replace('x', 'y' * 99999) }}",
    "replace of nothing": "{{ ('x' * 99999).replace('', 'y' * 99999) }}",
    "replace, again and again": DOUBLED + "ns.x | replace('a', 'aa') %}{% endfor %}",
    "join": "{{ range(99999) | join('x' * 99999) }}",
    "join of shared parts": "{{ (['x' * 99999] * 99999) | join }}",
    "str.join": "{{ ('y' * 99999).join('x' * 99999) }}",
    "concatenation": DOUBLED + "ns.x ~ ns.x %}{% endfor %}",
    "addition": DOUBLED + "ns.x + ns.x %}{% endfor %}",
    "addition of lists": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
    "{% endfor %}",
    "captured, again and again": DOUBLED.removesuffix("{% set ns.x = ")
    + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "laughs": LAUGHS + "{{ a }}",
    "laughs, joined": LAUGHS + "{{ a ~ '' }}",
    "laughs, as a string": LAUGHS + "{{ a | string }}",
    "laughs, as json": LAUGHS + "{{ a | tojson }}",
    "laughs, compared": LAUGHS
    + LAUGHS.replace("a,", "b,").replace("a]", "b]").replace("set a", "set b") + "{{ a == b }}",
    "laughs, in a namespace": LAUGHS + "{{ namespace(a=a).a ~ '' }}",
    "laughs, formatted": LAUGHS + "{{ '{}'.format(a) }}{{ '%s' % a }}",
    "laughs, sorted": LAUGHS + "{{ [a, a] | sort | length }}",
    "list of ranges": f"{{% for a in {R} %}}{{{{ {R} | list | length }}}}{{% endfor %}}",
    "generators": "{% set ns = namespace(r=range(99999)) %}{% for i in range(100) %}"
    "{% set ns.r = ns.r | select('odd') %}{% endfor %}"
    "{{ ns.r | list }}",
    "map of a filter": f"{{{{ {R} | map('center', 9999) | list }}}}",
    "map of json": f"{{{{ {R} | map('tojson', indent=1000000000) | list }}}}",
    "attribute path": "{{ ([{}] * 99999) | map(attribute='a.' * 9999) | list }}",
    "batch": "{{ [1] | batch(1000000000, 'x') | list }}",
    "slice": "{{ [1] | slice(1000000000) | list }}",
    "wordwrap": "{{ ('x ' * 9999) | wordwrap(1, wrapstring='y' * 9999) }}",
    "round": "{{ 1.5 | round(1000000000, 'ceil') }}",
    "sum of lists": "{{ ([[1]] * 99999) | sum(start=[]) | length }}",
    "strip": f"{{% for a in {R} %}}{{% set x = ('a' * 99999).strip('b' * 9999 ~ 'a') %}}{{% endfor %}}",
    "rfind": "{{ ('a' * 999999).rfind('b' ~ 'a' * 99999) }}",
    "split": "{% set ns = namespace(l=[]) %}{% for a in range(999) %}"
    "{% set ns.l = [ns.l, ('é ' * 99999).split(' ')] %}{% endfor %}",
    "letters": "{{ ('é' * 999999) | list | length }}{{ ('é' * 9999999) | list }}",
    "kept wide characters": "{% set s = '😀' * 99999 %}{% set ns = namespace(l=[]) %}{% for a in range(9999) %}"
    "{% set ns.l = [ns.l, s[1:]] %}{% endfor %}",
    "kept slices": "{% set s = 'x' * 99999 %}{% set ns = namespace(l=[]) %}{% for a in range(9999) %}"
    "{% set ns.l = [ns.l, s[1:]] %}{% endfor %}",
    "kept lists": "{% set ns = namespace(l=[]) %}{% for a in range(99999) %}"
    "{% set ns.l = [ns.l" + ", 0" * 3999 + "] %}{% endfor %}",
    "comparisons": f"{{% set x, y = 'x' * 999999, 'x' * 999999 %}}{{% for a in {R} %}}{{% if x == y ~ '' %}}"
    f"{{% endif %}}{{% endfor %}}",
    "membership": f"{{% set l = ['x' * 9999] * 99 %}}{{% for a in {R} %}}{{% if 'y' * 9999 in l %}}"
    f"{{% endif %}}{{% endfor %}}",
    "tests": f"{{% set x = 'X' * 999999 %}}{{% for a in {R} %}}{'{% if x is upper %}{% endif %}' * 999}{{% endfor %}}",
    "hash of a tall tuple": TALL + "{{ {ns.t: 1} }}",
    "key of a tall tuple": TALL + "{{ {}[ns.t] }}",
    "get of a tall tuple": TALL + "{{ {}.get(ns.t) }}",
    "unique tall tuples": TALL + "{{ [ns.t] | unique | list }}",
    "dict of a tall tuple": TALL + "{{ dict([(ns.t, 1)]) }}",
    "namespace of a tall tuple": TALL + "{{ namespace([(ns.t, 1)]) }}",
    "text of a tall tuple": TALL + "{{ ns.t }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion by caller": "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}"
    "{% endcall %}{% endmacro %}{{ g() }}",
    "self": "{% block x %}{{ self.x() }}{% endblock %}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "classes by name": "{{ (''|attr('__class__')).__mro__ }}",
    "classes by index": "{{ ''['__class__']['__mro__'] }}",
    "globals": "{{ raise_exception.__globals__['json'] }}{{ cycler.__init__.__globals__.os }}",
    "frames": "{{ (messages | map('upper')).gi_frame.f_globals }}",
    "environment": "{{ self._TemplateReference__context.environment.filters }}{{ f.environment.x }}",
    "macro's environment": "{% macro f() %}{% endmacro %}{{ f._environment.globals }}",
    "namespace's class": "{{ namespace(__class__='x').__class__.__init__.__globals__ }}",
    "mutation": "{% for a in [[]] %}{{ a.append(a) }}{% endfor %}",
    "strftime": "{{ strftime_now('%999999999d' * 9999) ~ nothing.at_all }}",
    "deep parentheses": "{{ " + "(" * 9_000 + "1" + ")" * 9_000 + " }}",
    "deep lists": "{{ " + "[" * 9_000 + "]" * 9_000 + " }}",
    "deep attributes": "{{ x" + ".a" * 9_000 + " }}",
    "deep filters": "{{ x" + "|e" * 9_000 + " }}",
    "deep negation": "{{ " + "not " * 9_000 + "x }}",
    "long sum": "{{ 1" + "+1" * 9_000 + " }}",
    "deep conditions": "{% if x %}" * 3_000 + "{% endif %}" * 3_000,
    "many conditions": "{% if x %}" + "{% elif x %}" * 5_000 + "{% endif %}",
    "deep loops": "{% for a in b %}" * 90 + "{{ a }}" * 8_000 + "{% endfor %}" * 90,
    "deep macros": "{% macro f() %}" * 90 + "{{ a }}" * 7_000 + "{% endmacro %}" * 90,
    "too long": "x" * 70_000,
    "loops within themselves": f"{{% for a in [1] recursive %}}{{{{ loop({R}) }}}}{{% endfor %}}",
    "loops within themselves, by name": f"{{% for a in {R} recursive %}}{{% if loop.depth == 1 %}}"
    f"{{{{ loop(iterable={R}) }}}}{{% endif %}}{{% endfor %}}",
    "letters in a loop within itself": "{% for a in [0] recursive %}{{ loop('x' * 9999999) if not a }}{% endfor %}",
    "endless loop within itself": "{% for a in [1] recursive %}{{ loop([a]) }}{% endfor %}",
    "laughs in a loop within itself": LAUGHS + "{% for x in a recursive %}{{ loop(x) }}{% endfor %}",
    "keys of one hash": "{{ range(0, 99999 * (2 ** 61 - 1), 2 ** 61 - 1) | unique | list | length }}",
    "an object of keys of one hash": "{{ dict.fromkeys(range(0, 99999 * (2 ** 61 - 1), 2 ** 61 - 1)) | length }}",
    "pairs of keys of one hash": "{{ dict(range(0, 99999 * (2 ** 61 - 1), 2 ** 61 - 1) | batch(2)) | length }}",
    "a namespace of keys of one hash": "{{ namespace(range(0, 99999 * (2 ** 61 - 1), 2 ** 61 - 1) | batch(2)) }}",
    "sort by a long text": "{% set n = namespace(x='X' * 99999) %}{{ ([n] * 99999) | sort(attribute='x') | length }}",
    "group by a long text": "{% set n = namespace(x='X' * 99999) %}{{ ([n] * 99999) | groupby('x') | length }}",
    "join of a long text": "{% set n = namespace(x='X' * 99999) %}{{ ([n] * 99999) | join(attribute='x') | length }}",
    "sum of long lists": "{% set n = namespace(x=[1] * 9999) %}{{ ([n] * 9999) | sum('x', []) | length }}",
    "most of long texts": "{% set n = namespace(x='X' * 99999) %}{{ ([n] * 99999) | max(attribute='x') }}",
    "sorted, again and again": f"{{% for a in {R} %}}{{% set x = {R} | sort %}}{{% endfor %}}",
    "attribute path, to sort": "{{ ([{}] * 99999) | sort(attribute='a.' * 9999) | list }}",
    "attribute paths, to sort": "{{ ([{}] * 999) | sort(attribute='a,' * 999999) | list }}",
    "words": "{% for a in range(999) %}{% set x = ('a ' * 99999) | wordcount %}{% endfor %}",
    "lines": "{% set ns = namespace(l=[]) %}{% for a in range(999) %}"
    "{% set ns.l = [ns.l, ('é\n' * 99999).splitlines()] %}{% endfor %}",
    "lines of other ends": "{% for a in range(999) %}{% set x = ('\x1c' * 99999) | indent(99) %}{% endfor %}",
    "wrapped long word": "{{ ('x' * 999999) | wordwrap(1) | length }}",
    "urlencode": "{{ ('é' * 9999999) | urlencode | length }}",
    "xmlattr": "{{ {'a': '&' * 9999999} | xmlattr | length }}",
    "striptags": "{{ ('&amp;' * 9999999) | striptags | length }}",
    "rjust": "{{ 'x'.rjust(1000000000) }}",
    "a width that is no number": "{{ 'x'.center('nan' | float) ~ 'x'.rjust('inf' | float) }}",
    "a width below nothing": "{% for a in range(99999) %}{% set x = 'x'.center(-9999999999) %}"
    "{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "times, to the left of nothing": f"{{% for a in {R} %}}{{% set x = 'x' * -99999999 ~ {R} | sum %}}{{% endfor %}}",
    "searches from the end": "{{ ('a' * 999999).rfind('ab' ~ 'a' * 9999) }}",
    "cuts from the end": "{{ ('a' * 999999).rsplit('ab' ~ 'a' * 9999) }}",
    "parts from the end": "{{ ('a' * 999999).rpartition('ab' ~ 'a' * 9999) }}",
    "percent, by name": "{{ ('%(a)s' * 9999) % {'a': 'x' * 9999} }}",
    "percent, wide name": "{{ '%(a(b))99999999d' % {'a(b)': 1} }}",
    "percent, many digits": "{{ '%9999999999d' % 1 }}",
    "percent, two stars": "{{ '%*.*f' % (9, 99999999, 1.5) }}",
    "percent, of a list": LAUGHS + "{{ '%s' % (a,) }}",
    "str.format, precise": "{{ '{:.99999999f}'.format(1.5) }}",
    "str.format, Indian digits": "{{ '{:١٠٠٠٠٠٠٠٠}'.format(1) }}",
    "str.format, quoted": LAUGHS + "{{ '{!r}'.format(a) }}",
    "str.format, marked": "{{ (('{0}' * 9999) | safe).format('x' * 9999) }}",
    "str.format, stored": "{% set f = '{:99999999}'.format %}{{ f(1) }}",
    "str.format, by map": "{{ (['{:99999999}'] | map('attr', 'format') | first)(1) }}",
    "str.format, by name": "{{ ('{:99999999}' | attr('format'))(1) }}",
    "str.format of internals": "{{ '{0._Cycler__x}{0.__init__.__globals__}'.format(cycler('a')) }}",
    "str.format of a macro": "{% macro m() %}{% endmacro %}{{ '{0._environment.globals}'.format(m) }}",
    "format_map of internals": "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "marked format of internals": "{{ ('{0.__class__.__mro__}' | safe).format(1) }}",
    "attributes by map": "{{ (messages | map(attribute='__class__') | first).__mro__ }}",
    "attributes by filter": "{{ ([''] | map('attr', '__class__') | first).x }}",
    "attributes by sort": "{{ [1, 2] | sort(attribute='__class__.__mro__') }}",
    "attributes by group": "{{ [1, 2] | groupby('__class__.__mro__') }}",
    "attributes by sum": "{{ [1, 2] | sum('__class__') }}",
    "attributes by test": "{{ [''] | selectattr('__class__.__mro__') | list }}",
    "methods of a type": "{{ cycler.next(1) }}", "a type by fromkeys": "{{ {}.fromkeys.__self__.mro() }}",
    "a dict's type": "{{ dict.mro() ~ dict.__class__.x }}", "mutation by attr": "{{ ([] | attr('append'))(1) }}",
    "mutation by map": "{{ [[]] | map('attr', 'append') | first }}{{ ([[]] | map('attr', 'append') | first)(1) }}",
    "views without a tall tuple": TALL + "{{ {}.items() - [ns.t] }}",
    "fromkeys of a tall tuple": TALL + "{{ dict.fromkeys([ns.t]) }}",
    "sort of tall tuples": TALL + "{{ [ns.t, ns.t] | sort }}",
    "a group of tall tuples": TALL + "{{ [{'a': ns.t}] | groupby('a') }}",
    "tall tuples in a namespace": TALL + "{{ [ns, ns] | unique(attribute='t') | list }}",
    "rounded": "{{ 7 | round(-1000000000) }}",
    "power, in a loop": "{% set ns = namespace(x=3) %}{% for a in range(99) %}"
    "{% set ns.x = ns.x ** 9 %}{% endfor %}",
    "power of many": "{{ (2 ** 4000) ** 4000 }}", "sum of powers": "{{ ([2 ** 4000] * 99999) | sum * 2 ** 200 }}",
    "slice, filled": "{{ [1] | slice(1000000000, 'x') | list }}",
    "a namespace's hidden name": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__class__ }}",
    "bytes": "{{ 'x'.encode() }}", "random": "{{ [1] | random }}", "lipsum": "{{ lipsum() }}",
    "urlize": "{{ ('www.' * 9999) | urlize }}", "pprint": LAUGHS + "{{ a | pprint }}",
}  # fmt: skip


def peak() -> int:
    """The most bytes that this process has held: on Linux since `forget_peak`."""
    if PROC.exists():
        return 1024 * int((PROC / "status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Makes what is held now the most that was, or earlier tests would hide what one takes."""
    if (PROC / "clear_refs").exists():
        (PROC / "clear_refs").write_text("5", encoding="ascii")


def attack(source: str, disguise: Disguise) -> None:
    values = plain_json({"messages": [written.USER]}, disguise)
    sandbox.render(sandbox.compile_template(source), values, disguise)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "too long"])
def test_so_it_is_where_operations_see_through_a_disguise(name: str) -> None:
    tokens = [f"<|reserved_special_token_{i}|>" for i in range(250)] + ["\n\n", "ab", "x"]
    disguise = Disguise(AddedTokens(AddedToken(token, special=True) for token in tokens), tokens, set(ATTACKS[name]))
    forget_peak()
    seconds, held = time.process_time(), peak()
    with pytest.raises((sandbox.Overrun, sandbox.TemplateFault, TemplateSyntaxError, ValueError, RecursionError)):
        attack(ATTACKS[name], disguise)
    assert peak() - held < GUARDED_BYTES
    assert time.process_time() - seconds < GUARDED_SECONDS


@pytest.mark.parametrize("share", [64, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_template_is_refused_within_bounds(name: str, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the whole budget, and on a 64th of it, which is spent sooner."""
    monkeypatch.setattr(sandbox, "BASE_UNITS", sandbox.BASE_UNITS // share)
    forget_peak()
    seconds, held = time.process_time(), peak()
    with pytest.raises(BadCheckpoint, match=r"chat_template\.jinja"):
        ChatTemplate(ATTACKS[name], written.TOKENS).render([written.USER])
    assert peak() - held < GUARDED_BYTES
    assert time.process_time() - seconds < GUARDED_SECONDS
