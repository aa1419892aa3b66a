"""A template finds control tokens in disguised texts, with the answers of plain ones, and never sets one free."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from elm_mlx.text.added_tokens import AddedTokens
from elm_mlx.text.chat import sandbox
from elm_mlx.text.chat.disguise import Disguise
from elm_mlx.text.chat.messages import plain_json
from elm_mlx.text.token_set import TokenSet

TOKENS = ("<|e|>", "</t>", "<t>", "aab", "Ab c", "q\nr", "ßx")
FRAGMENTS = sorted({token[a:b] for token in TOKENS for a in range(len(token)) for b in range(a + 1, len(token) + 1)})
TEXTS = st.lists(st.sampled_from((*TOKENS, *FRAGMENTS, " ", "-", "\n", "&", "'", "Z", "é")), max_size=5).map("".join)
LITERALS = st.sampled_from(("", "-", "Z", "--", " "))  # what templates put in: no part of a token
SOUGHT = st.sampled_from((*TOKENS, *FRAGMENTS, " ", "-"))  # what templates look for
ONE = (  # of a text
    "X | trim", "X.strip(S)", "X.strip()", "X.lstrip(S)", "X.rstrip(S)", "X | trim(S)", "X.removeprefix(S)",
    "X.removesuffix(S)", "X.replace(S, I)", "X.replace('', I, 2)", "X | replace(S, I, 1)", "X.replace(S, Y)",
    "X | upper", "X.title()", "X | title", "X.swapcase()", "X | lower", "X.casefold()", "X | capitalize", "X | tojson",
    "X | tojson(ensure_ascii=true)", "X | urlencode", "X | e", "X | striptags", "X[1:]", "X[:-2]", "X[::-1]", "X[0]",
    "X | reverse", "X | first", "X | last", "X.center(9, '-')", "X | center(9)", "X.ljust(7)", "X.zfill(6)",
    "X | indent(2, true)", "X | indent('- ', blank=true)", "X | truncate(5, true, '-', 0)", "X | truncate(6, end='')",
    "X | wordwrap(3)", "X | string", "X | safe", "X | wordcount", "X | length", "X.find(S)", "X.rfind(S)", "X.count(S)",
    "X.startswith(S)", "X.endswith((S, '-'))", "X.isupper()", "X is lower", "X | default(Y)", "X.partition(S)[0]",
    "X.rpartition(S)[2]", "X.partition(S)[1]", "X.split(S)[-1]", "X.rsplit(S, 1)[0]", "X.split()[0]", "X.expandtabs()",
    "(X).split(S)[-1].lstrip()", "X | xmlattr", "{'k': X} | xmlattr", "{X: Y}[X]", "d[S]", "d.get(S, I)", "S in d", "d",
    "d.items() | list", "d | dictsort | string", "X | float(I)", "X | int(Y)", "X | attr('upper')()", "X * 2",
)  # fmt: skip
TWO = (
    "X ~ Y", "X + Y", "X ~ I ~ Y", "X == Y", "X != S", "X < Y", "S in X", "X in Y", "X is eq Y", "X in [Y, S]",
    "Y if X == S else X",
    "'%s-%5s' % (X, Y)", "'%s-%s' | format(X, Y)", "'%r' % X", "'%.2s-' % X", "'{}-{}'.format(X, Y)",
    "'{!r}{:.3}'.format(X, Y)",
    "'{:>9}{a}'.format(X, a=Y)", "'{0[k]}'.format({'k': X})", "[X, Y]", "(X, Y) ~ I", "[X, {Y: X}] | string",
    "'{}'.format([X])",
    "[X, Y] | join(I)", "I.join([X, Y])", "[[X], Y] | join", "''.join(X.split(S))", "[X, Y, a] | sort | join(I)",
    "[X, Y, X] | unique | join(I)", "[X, Y] | map('upper') | join", "[X, Y] | select('eq', S) | list | length",
    "[X, Y] | reject('in', Y) | join", "[{'k': X}, {'k': Y}] | groupby('k') | string",
    "[{'k': X}] | selectattr('k', 'eq', S) | list",
    "[{'k': X, 'n': 1}, {'k': Y}] | sort(attribute='k') | map(attribute='k') | join(I)", "[X, Y] | max", "[X, Y] | min",
    "[{'k': X}] | groupby('k') | map(attribute='grouper') | first", "X.splitlines() | join(I)",
    "X.split(S, 1) | join(I)",
    "(X | list | sort) | join", "X | list | reverse | join", "X.split() | batch(2) | list", "dict([(X, Y)])",
    "dict.fromkeys([X])",
    "namespace(k=X).k", "[X, Y] | sum(start=[]) | list", "[[X], [Y]] | sum(start=[]) | join", "cycler(X, Y).next()",
    "[X, Y] | tojson",
    "[X, Y].count(S)", "[X, Y].index(Y)", "{X: 1}.keys() | list", "S in {X: 1}.keys()", "(X | e) + Y",
    "(X | e).replace(S, Y)",
    "(X | e) % ()", "('%s' | safe) % X", "[X, Y] | slice(2) | list", "(X, Y) | map('replace', S, I) | join",
    "X.format(Y)", "X % Y",
)  # fmt: skip


def disguising(tokens: Iterable[str], used: set[str]) -> Disguise:
    """The disguise of these special tokens, without the characters that are used elsewhere."""
    return Disguise(AddedTokens(AddedToken(token, special=True) for token in tokens), list(tokens), used)


def found(tokens: Iterable[str], text: str) -> list[str]:
    """The control tokens that a text still shows."""
    return TokenSet(tokens).split(text)[1::2]


def hidden(values: dict[str, Any], disguise: Disguise) -> dict[str, Any]:
    """The variables of a template as `ChatTemplate.encode` disguises them."""
    return {key: plain_json(value, disguise, disguise.name) for key, value in values.items()}


def filled(parts: tuple[str, str, str, str, str]) -> str:
    """An expression with its places filled in: X and Y by texts, S by what is looked for, I by what is put in."""
    shape, left, right, sought, put_in = parts
    places = {"X": f"({left})", "Y": f"({right})", "S": repr(sought), "I": repr(put_in)}
    return "".join(places.get(letter, letter) for letter in shape)


ROOTS = st.sampled_from(["a", "b", "m.content"])
EXPRESSIONS = st.recursive(
    ROOTS, lambda inner: st.tuples(st.sampled_from(ONE + TWO), inner, inner, SOUGHT, LITERALS).map(filled), max_leaves=4
)
WHOLE = st.lists(st.sampled_from(["<|e|>", "</t>", "-", "Z"]), max_size=3)


def outcome(code: Any, variables: dict[str, Any], disguise: Disguise | None = None) -> str | None:
    try:
        return sandbox.render(code, variables, disguise)
    except sandbox.TemplateFault:
        return None


def renderings(source: str, texts: tuple[str, str, str]) -> tuple[str | None, str | None, Disguise]:
    """The plain rendering and the disguised one, None where it fails."""
    a, b, c = texts
    plain = {"a": a, "b": b, "m": {"content": c, b: a}, "d": {a: b, c: a}}
    disguise = disguising(TOKENS, set(source) | set(a + b + c))
    code = sandbox.compile_template(source)
    return outcome(code, plain), outcome(code, hidden(plain, disguise), disguise), disguise


def check(written: list[str], own: list[str], texts: tuple[str, str, str]) -> None:
    """Both renderings must be one text, and the disguised one may hold the template's own tokens only, in order."""
    source = "".join(f"{literal}{{{{ {one} }}}}" for literal, one in zip([*own, "", "", ""], written, strict=False))
    plain, masked, disguise = renderings(source, texts)
    shown = [None if one is None else re.sub("0x[0-9a-f]+", "", disguise.reveal(one)) for one in (plain, masked)]
    assert shown[0] == shown[1]
    put = [literal for literal, _ in zip(own, written, strict=False) if literal in TOKENS]
    assert masked is None or found(TOKENS, masked) == put


TEMPLATES = (st.lists(EXPRESSIONS, min_size=1, max_size=3), WHOLE, st.tuples(TEXTS, TEXTS, TEXTS))


@settings(max_examples=60)
@given(*TEMPLATES)
def test_a_disguised_text_gives_the_plain_prompt_and_no_token_of_the_caller(
    written: list[str], own: list[str], texts: tuple[str, str, str]
) -> None:
    check(written, own, texts)


@pytest.mark.slow
@settings(max_examples=3000)
@given(*TEMPLATES)
def test_so_do_thousands(written: list[str], own: list[str], texts: tuple[str, str, str]) -> None:
    check(written, own, texts)


THINK = ("<think>", "</think>", "<|end|>")
FOUND = {
    "{{ '</think>' in t }}{{ 'no' if '<think>' not in t }}": "True",
    "{{ t.split('</think>')[-1].lstrip('\n') }}": "Yes <|end|>",
    "{{ t.split('<think>')[1].split('</think>')[0] }}": "why?",
    "{{ t.startswith('<think>') }}{{ t.endswith('<|end|>') }}{{ t.find('Yes') }}": "TrueTrue21",
    "{{ (t | trim)[7:11] }}{{ t | length }}": "why?32",
    "{{ m.role == '<|end|>' }}{{ m.role in ['<|end|>'] }}{{ m.role is eq('<|end|>') }}": "TrueTrueTrue",
    "{{ [m] | selectattr('role', 'equalto', '<|end|>') | list | length }}{{ ['a'] | reject('in', t) | first }}": "1a",
    "{% if t is defined and m['<think>'] == 1 and m.get('<think>') == 1 and '<think>' in m %}yes{% endif %}": "yes",
    "{% for letter in t if letter == '<' %}{{ letter }}{% endfor %}": "<<<",
    "{% macro cut(x) %}{{ x.partition('</think>')[2] | trim }}{% endmacro %}{{ cut(t) }}": "Yes <|end|>",
    "{% set ns = namespace(x='') %}{% set ns.x = t.replace('<think>', '[').replace('</think>', ']') %}{{ ns.x }}":
    "[why?]\n\nYes <|end|>",
    "{% filter replace('<|end|>', '') %}{{ t }}{% endfilter %}": "<think>why?</think>\n\nYes ",
    "{{ [t.split('\n')[0]] }}": "['<think>why?</think>']",
    "{{ {'a': m.role} | tojson(ensure_ascii=true) }}": '{"a": "<|end|>"}',
    "{{ '%s|%r' % (m.role, m.role) }}{{ '{:>8}'.format(m.role) }}": "<|end|>|'<|end|>' <|end|>",
    "{% for x in [m.role, [m.role]] recursive %}{{ x if x is string else loop(x) }}{% endfor %}": "<|end|><|end|>",
    "{{ raise_exception(m.role) if m.role != '<|end|>' }}{{ t is in [t] }}{{ m is mapping }}": "TrueTrue",
}  # fmt: skip


@pytest.mark.parametrize("source", FOUND)
def test_a_template_sees_what_it_looks_for_and_writes_it_as_text(source: str) -> None:
    disguise = disguising(THINK, set(source))
    values = {"t": "<think>why?</think>\n\nYes <|end|>", "m": {"role": "<|end|>", "<think>": 1}}
    shown = sandbox.render(sandbox.compile_template(source), hidden(values, disguise), disguise)
    assert disguise.reveal(shown) == FOUND[source]
    assert not found(THINK, shown)


def test_a_template_s_own_tokens_stay_control_through_what_it_does_with_them() -> None:
    source = "{{ ('<|end|>' ~ t ~ '<think>\n') | trim }}{{ ['<|end|>', t] | join('<think>') }}{{ '%s</think>' % t }}"
    source += "{% set open = '<think>\n' %}{{ open.strip() + '{}</think>'.format(t) }}{{ (open ~ 'x').split('\n')[0] }}"
    disguise = disguising(THINK, set(source))
    shown = sandbox.render(sandbox.compile_template(source), {"t": disguise("<|end|>")}, disguise)
    assert found(THINK, shown) == [
        "<|end|>", "<think>", "<|end|>", "<think>", "</think>", "<think>", "</think>", "<think>"
    ]  # fmt: skip


def test_a_message_that_a_template_refuses_is_quoted_plain() -> None:
    disguise = disguising(THINK, set())
    with pytest.raises(sandbox.TemplateRefusal, match=r"^no <\|end\|>$"):
        sandbox.render(
            sandbox.compile_template("{{ raise_exception('no ' ~ t) }}"), {"t": disguise("<|end|>")}, disguise
        )


ATTEMPTS = (
    "{{ a.replace('-', '') }}", "{{ a.split('-') | join }}", "{{ a.split('-')[0] ~ a.split('-')[1] }}",
    "{{ a[:4] ~ a[5:] }}", "{{ f[::2] }}", "{{ b | reverse }}", "{{ b[::-1] }}",
    "{% for x in b | list | reverse %}{{ x }}{% endfor %}",
    "{% for x in a if x != '-' %}{{ x }}{% endfor %}", "{% for x in a.split('-') %}{{ x }}{% endfor %}",
    "{{ c | lower }}",
    "{{ c.swapcase() }}", "{{ (d | safe).unescape() }}", "{{ d | striptags }}",
    "{{ a | truncate(4, true, '', 0) ~ a[5:] }}", "{{ '%.4s' % a ~ a[5:] }}", "{{ '{:.4}'.format(a) ~ a[5:] }}",
    "{{ a | list | reject('eq', '-') | join }}", "{{ (a | int(a[:4])) ~ a[5:] }}", "{{ {a[:4]: 1} | first ~ a[5:] }}",
    "{{ [{'k': a[:4]}] | map(attribute='k') | first ~ a[5:] }}", "{{ g | wordwrap(4, wrapstring='') }}",
    "{{ c | title | lower }}",
    "{{ '{0[0]}{0[1]}{0[2]}{0[3]}{0[5]}{0[6]}{0[7]}'.format(a) }}", "{{ a | batch(4) | first | join ~ a[5:] }}",
    "{{ [{'k': e}] | groupby('k') | map(attribute='grouper') | first }}", "{{ [e] | max }}", "{{ e | int(e) }}",
    "{{ {}[e] | default(e) }}",
    "{{ [e] | sort | first }}", "{{ '{!s}'.format([e]) }}", "{{ e.format() }}", "{{ e % () }}", "{{ e ~ '' }}",
    "{% set j = joiner(e) %}{{ j() }}{{ j() }}", "{{ (e | safe) + '' }}", "{{ strftime_now(e) }}",
    "{{ (h | first) ~ i ~ (h | last) }}", "{{ k.join(h) }}", "{{ h | join(k) }}", "{{ '|end|'.join(h) }}",
    "{% set x, y = h %}{{ x ~ i ~ y }}", "{{ '{}|end|{}'.format(*h) }}", "{{ a | reject('eq', '-') | join }}",
    "{{ '<' ~ i ~ '>' }}", "{{ '<|' ~ (i | replace('|', '')) ~ '|>' }}", "{{ h | map('string') | join(i) }}",
    "{{ dict.fromkeys(h) | join(i) }}", "{{ cycler(*h).next() ~ i ~ (h | max) }}", "{{ h[0] ~ i ~ h[1:] }}",
    "{% for x, y in [h] %}{{ x ~ i ~ y }}{% endfor %}",
)  # fmt: skip


@pytest.mark.parametrize("source", ATTEMPTS)
def test_no_operation_makes_control_of_a_caller_s_text(source: str) -> None:
    texts = {
        "a": "<|en-d|>",
        "b": ">|dne|<",
        "c": "<|END|>",
        "d": "&lt;|end|&gt;",
        "e": "<|end|>",
        "f": "<-|-e-n-d-|->",
        "g": "<|en d|>",
        "h": "<>",
        "i": "|end|",
        "k": "|end|",
    }
    disguise = disguising(THINK, set(source).union(*texts.values()))
    code = sandbox.compile_template(source)
    assert found(THINK, sandbox.render(code, texts))
    assert not found(THINK, sandbox.render(code, hidden(texts, disguise), disguise))


def test_no_stand_in_is_a_character_of_a_token() -> None:
    tokens = ("\U00030000", "<e>", "\U000f0000")
    assert not found(tokens, disguising(tokens, set())("e<e>\U00030000\U000f0000"))
