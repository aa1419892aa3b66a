"""Answers drawn at random within a form have that form as the tokenizer shows them, of whatever kind it is."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest
from helpers import tokenizer_craft
from helpers.forms import (
    STOP,
    STOPS,
    allowed,
    begin,
    choice_form,
    demo_tokenizer,
    draw,
    schema_form,
    takes,
    tokenizer_at,
)
from llguidance import LLMatcher, _lib

from elm_mlx.errors import NotEnforceable, NotFound
from elm_mlx.text import form_library, grammar
from elm_mlx.text.constraint_row import ConstraintRow
from elm_mlx.text.form_bounds import MOST_LAID_OVER, MOST_WRITTEN
from elm_mlx.text.grammar import Form, Grammars

NUMBER = r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?"


@pytest.fixture(scope="module")
def demo() -> Grammars:
    return Grammars(demo_tokenizer(), 2048)


@pytest.fixture(scope="module", params=["sentencepiece", "llama-3"])
def crafted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Grammars:
    path = tmp_path_factory.mktemp("tokenizers") / "tokenizer.json"
    tokenizer_craft.write(path, request.param)
    return Grammars(*tokenizer_at(path))


def texts(grammars: Grammars, form: Form, count: int = 20) -> list[str]:
    """Answers that were drawn, those that ended."""
    tokenizer, stop = grammars._tokenizer, frozenset({grammars._rows - 1})
    drawn = [draw(begin(grammars, form, stop), stop, seed) for seed in range(count)]
    return [tokenizer.decode(ids) for ids in drawn if ids is not None]


# What is shown has the form


@pytest.mark.parametrize(
    "pattern",
    [
        "[a-z ]{3,9}",
        " +a",
        " ?(the|a) cat",
        "é😀?[字☃]{1,2}",
        r"(\n|\t| )x{0,3}",
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
        ".{1,6}",
    ],
)
def test_text_fits_its_regular_expression_in_every_kind_of_tokenizer(crafted: Grammars, pattern: str) -> None:
    found = texts(crafted, Form("regex", pattern))
    assert len(found) > 10
    for text in found:
        assert re.fullmatch(pattern, text), text


def test_a_first_blank_that_is_not_shown_does_not_count(crafted: Grammars) -> None:
    assert set(texts(crafted, choice_form("the", " the", "  the", "é", "\n"), 60)) == {
        "the",
        " the",
        "  the",
        "é",
        "\n",
    }


def test_choices_are_texts_and_no_patterns(crafted: Grammars) -> None:
    hard = ['a"b', "a\\b", "a.b*", "<|eot_id|>", "</s>", "x\ny", "😀", "/re/i", "a|b"]
    assert set(texts(crafted, choice_form(*hard), 120)) == set(hard)


def test_json_is_compact_and_its_keys_stand_as_in_the_schema(demo: Grammars) -> None:
    schema = {"type": "object", "properties": {"z": {"type": "number"}, "a": {"enum": ["x", 1, None]}},
              "required": ["z", "a"], "additionalProperties": False}  # fmt: skip
    found = texts(demo, schema_form(schema))
    assert len(found) > 10
    for text in found:
        assert re.fullmatch(rf'{{"z":{NUMBER},"a":("x"|1|null)}}', text)


def test_any_object_is_json(demo: Grammars) -> None:
    form = Form("json_object", "")
    assert takes(demo, form, '{"a":[1,-2.5e3,"x\\n\\"é😀",true,null,{"b":{}}]}')
    for text in ("[]", '{"a"}', '{"a":1', "{'a':1}", '{"a":"\\x"}', '{"a":tru}', '{"a":1}x'):
        assert not takes(demo, form, text)


def test_a_grammar_may_be_recursive_and_ambiguous(demo: Grammars) -> None:
    for text in texts(demo, Form("lark", 'start: "(" start ")" | "x"'), 10):
        assert text == "(" * (len(text) // 2) + "x" + ")" * (len(text) // 2)
    for text in texts(demo, Form("lark", 'start: e\ne: e "+" e | "1" | "2"'), 20):
        assert re.fullmatch(r"[12](\+[12])*", text)


# The mask


def test_tokens_that_reach_over_a_border_of_the_grammar_are_allowed(demo: Grammars) -> None:
    """After the letter "a" every token is allowed that begins one of the ends, whole, in part, or beyond a part."""
    known, ends = demo._ready().bytes.of, ("the", "then it", "x")
    row = begin(demo, Form("lark", 'start: "a" ("the" | "then" " it" | "x")'))
    row.accept(known.index(b"a"))
    wanted = {
        id for id, data in enumerate(known) if data and any(end.startswith(data.decode("latin-1")) for end in ends)
    }
    assert set(allowed(row)) == wanted
    assert {len(known[id]) for id in wanted} >= {1, 2}


def test_special_tokens_are_in_no_mask_and_stop_ids_only_where_the_answer_may_end(crafted: Grammars) -> None:
    known, stops = crafted._ready().bytes, frozenset({crafted._rows - 1, crafted._rows - 2})
    for seed in range(3):
        row = begin(crafted, Form("regex", "(.|\n)(.|\n)*"), stops)
        assert not stops & set(allowed(row))
        for id in draw(row.fork(), stops, seed, 12) or []:
            found = set(allowed(row))
            assert all(known.of[one] for one in found - stops)
            assert not known.control & found
            row.accept(id)
        assert stops <= set(allowed(row))


def test_an_id_of_text_that_is_also_a_stop_id_ends_the_answer_and_never_goes_on_with_it(demo: Grammars) -> None:
    letter = demo._ready().bytes.of.index(b"b")
    row = begin(demo, Form("regex", "ab*"), frozenset({letter}))
    assert letter not in allowed(row)
    row.accept(demo._ready().bytes.of.index(b"a"))
    assert letter in allowed(row)


def test_a_fork_goes_on_alone(demo: Grammars) -> None:
    known = demo._ready().bytes.of
    row = begin(demo, Form("regex", "a(b|c)d"))
    other = row.fork()
    row.accept(known.index(b"a"))
    third = row.fork()
    third.accept(known.index(b"b"))
    assert other.mask().tolist() == begin(demo, Form("regex", "a(b|c)d")).mask().tolist()
    assert known.index(b"c") in allowed(row)
    assert [known[id] for id in allowed(third)] == [b"d"]


def test_an_id_that_is_not_allowed_is_an_error(demo: Grammars) -> None:
    row = begin(demo, Form("regex", "a"))
    with pytest.raises(NotEnforceable, match="cannot be followed further"):
        row.accept(demo._ready().bytes.of.index(b"z"))


# Compiling


def test_a_form_is_compiled_once_and_only_so_many_are_kept(demo: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Form] = []
    usual = grammar.begin_row
    monkeypatch.setattr(grammar, "begin_row", lambda ready, form: made.append(form) or usual(ready, form))
    monkeypatch.setattr(grammar, "MOST_KEPT", 3)
    for text in ("p", "q", "p", "r", "p", "s", "t", "p", "q"):
        begin(demo, Form("regex", text))
    assert [form.text for form in made] == ["p", "q", "r", "s", "t", "q"]


def test_the_kept_forms_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(demo_tokenizer(), 2048)
    monkeypatch.setattr(grammar, "MOST_TEXT", 10)
    for text in ("aaaa", "bbbb", "cccc"):
        begin(grammars, Form("regex", text))
    assert [form.text for form in grammars._kept] == ["bbbb", "cccc"]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (Form("regex", "(?=a)b"), "look-around|lookaround|invalid regex"),
        (Form("regex", r"(a)\1"), "invalid regex"),
        (Form("regex", "["), "invalid regex"),
        (Form("regex", "a{1000000000}"), "repeats something 1000000000 times"),
        (Form("regex", "[^\\s\\S]"), "cannot be enforced"),
        (Form("lark", "start"), "Expected"),
        (Form("lark", "start: other"), "other"),
        (Form("lark", "start: start"), "no text has this form"),
        (Form("lark", "start: X\nX: " + " & ".join(["/a.*/"] * (MOST_LAID_OVER + 2))), "more than 12"),
        (Form("regex", "x" * 70_000), "70,000 characters; it may have 65,536"),
        (Form("json_schema", '{"$ref":"#"}'), "no text has this form"),
        (Form("json_schema", "{"), "cannot be read"),
        (Form("json_schema", '{"items":' * 200 + "{}" + "}" * 200), "recursion limit"),
    ],
)
def test_what_is_no_form_is_refused_with_the_reason(demo: Grammars, form: Form, words: str) -> None:
    with pytest.raises(NotEnforceable, match=words):
        begin(demo, form)


def test_who_asks_for_a_form_that_is_being_compiled_shares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars, may, made, usual = Grammars(demo_tokenizer(), 2048), Event(), list[Form](), grammar.begin_row

    def begin_row(ready: grammar.Ready, form: Form) -> ConstraintRow:
        made.append(form)
        may.wait(60)
        return usual(ready, form)

    monkeypatch.setattr(grammar, "begin_row", begin_row)
    coming = [grammars.compile(Form("regex", "ab")) for _ in range(3)]
    assert not any(one.done() or one.cancel() for one in coming)
    may.set()
    assert len({one.result() for one in coming}) == len(made) == 1
    bad = grammars.compile(Form("regex", "("))
    with pytest.raises(NotEnforceable):
        bad.result()
    with pytest.raises(NotEnforceable):
        grammars.compile(Form("regex", "(")).result()
    assert len(made) == 3  # what is no form is not kept


@pytest.mark.parametrize("kind", ["metaspace", "metaspace-bytes", "strip-two", "none"])
def test_a_tokenizer_that_joins_its_tokens_in_another_way_is_refused(kind: str, tmp_path: Path) -> None:
    tokenizer_craft.write(tmp_path / "tokenizer.json", kind)
    with pytest.raises(NotEnforceable, match="joins tokens in a way"):
        begin(Grammars(*tokenizer_at(tmp_path / "tokenizer.json")), Form("regex", "a"))


def test_without_the_extra_a_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "find_spec", lambda name: None if name == "llguidance" else importlib.util.find_spec)
    with pytest.raises(NotFound, match=r"elm-mlx\[structure\]"):
        begin(Grammars(demo_tokenizer(), 2048), Form("regex", "a"))


def test_the_package_is_imported_with_the_first_form(tmp_path: Path) -> None:
    code = ("import sys; from helpers.forms import *; import elm_mlx.api.language_model; "
            "g = Grammars(demo_tokenizer(), 2048); assert 'llguidance' not in sys.modules; "
            "begin(g, Form('regex', 'a')); assert 'llguidance' in sys.modules; "
            "print({'torch', 'transformers'} & sys.modules.keys())")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "form",
    [
        Form("lark", "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(3000)) + 'r3000: "y"'),
        Form("json_schema", json.dumps({"$ref": "#/$defs/0", "$defs": {"900": {"type": "null"}} | {
            str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}]} for i in range(900)}})),
    ],
)  # fmt: skip
def test_chains_of_thousands_of_rules_do_not_end_the_process(demo: Grammars, form: Form) -> None:
    """They would overflow an ordinary stack."""
    with suppress(NotEnforceable):  # for the time that it takes on a busy machine
        assert allowed(begin(demo, form))


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [f"v{i}" for i in range(5000)]},
        {"properties": {f"p{i}": {"type": "integer"} for i in range(400)}, "additionalProperties": False},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "maxLength": 10**9},
        {"type": "string", "pattern": "^(a?){500}a{500}$"},
        {"type": "string", "pattern": "(.*)a.{30}b"},
        {"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {"type": "string"}}} for j in range(6)]} for i in range(9)]},
    ],
)
def test_a_hostile_schema_has_a_mask_or_is_refused(demo: Grammars, schema: object) -> None:
    with suppress(NotEnforceable):
        assert allowed(begin(demo, schema_form(schema)))


def test_numbers_at_their_limits_are_taken_or_refused(demo: Grammars) -> None:
    most = 2**53 - 1
    assert takes(demo, schema_form({"type": "integer", "maximum": most}), str(most))
    assert not takes(demo, schema_form({"type": "integer", "maximum": most}), str(most + 1))
    assert not takes(demo, schema_form({"exclusiveMinimum": most}), str(most))
    assert takes(demo, schema_form({"type": "number"}), "-1.5e-300")
    assert takes(demo, schema_form({"type": "number", "minimum": 0.1, "maximum": 0.3}), "0.3")
    assert not takes(demo, schema_form({"type": "number", "minimum": 0.1, "maximum": 0.3}), "0.30000000000000004")


@pytest.mark.parametrize(
    "number", [2**53, -(2**53), 10**30, -(2**63) + 2, 1e300, 1.4202303006004637, 1.5e-30, -(2.0**63)]
)
def test_a_number_that_would_be_rounded_is_refused(number: float) -> None:
    """The least whole number of 64 bits would even end the process."""
    for schema in ({"minimum": number}, {"exclusiveMaximum": number}, {"enum": [1, {"a": [number]}]}):
        with pytest.raises(NotEnforceable, match="has a number that cannot be enforced exactly"):
            schema_form(schema)


def test_what_is_prepared_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(demo_tokenizer(), 2048)
    grammars.prepare()
    monkeypatch.setattr(grammar, "make_ready", None)
    grammars.prepare()
    assert takes(grammars, Form("regex", "ab"), "ab")


@pytest.mark.parametrize("form", [schema_form({"enum": ["a b", "a c", "é"]}), Form("regex", "[a-z]+ ?[0-9]{2}")])
def test_both_ways_into_the_library_give_the_same_masks(
    crafted: Grammars, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Grammars(crafted._tokenizer, crafted._rows)
    monkeypatch.setattr(form_library, "load", lambda _path: None)
    assert isinstance(begin(other, form)._matcher, LLMatcher)
    assert isinstance(begin(crafted, form)._matcher, form_library.Matcher)
    for seed in range(4):
        rows = begin(crafted, form), begin(other, form)
        for id in draw(begin(crafted, form), STOPS, seed) or ():
            masks = [row.mask().tolist() for row in rows]
            assert masks[0] == masks[1]
            for row in rows:
                row.accept(id)
            assert allowed(rows[0].fork()) == allowed(rows[1].fork())


def test_a_vocabulary_is_prepared_without_keeping_other_threads_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each long call of the library's is one that lets the interpreter go: those of its C interface."""
    monkeypatch.setattr(grammar, "with_lock", None)
    grammars = Grammars(demo_tokenizer(), 2048)
    assert takes(grammars, Form("regex", "ab"), "ab")


def test_a_tokenizer_that_fails_gives_masks_of_nothing() -> None:
    """What the library asks of the tokenizer may fail: nothing of that leaves the callback."""

    def fails(_: bytes) -> list[int]:
        raise ValueError("never")

    library = form_library.load(str(_lib.__file__))
    assert library
    backend = form_library.Backend(library, [b"a", b"b", b"ab", b""], 3, fails)
    matcher = form_library.Matcher.begin(backend, '{"grammars": [{"lark_grammar": "start: \\"ab\\""}]}', {})
    assert [int(word) for word in matcher.compute_bitmask()] == [0]
    with pytest.raises(ValueError, match="the value 0"):
        form_library.Matcher.begin(backend, "start: \0", {})


LONG = "ab c" * 2000


@pytest.mark.parametrize(
    "form", [Form("regex", LONG), Form("lark", f'start: "{LONG}"'), Form("lark", f"start: /{LONG}/")]
)
def test_a_text_whose_masks_would_hold_up_other_answers_is_refused(demo: Grammars, form: Form) -> None:
    with pytest.raises(NotEnforceable, match=r"8,00\d characters; 4,096 is the most"):
        begin(demo, form)


def test_a_text_of_as_many_characters_as_a_form_may_have_is_written(demo: Grammars) -> None:
    text = "".join(random.Random(1).choices("abcdefgh iou", k=MOST_WRITTEN))
    for form in (choice_form(text, text[:-1] + "z"), schema_form({"const": text})):
        row = begin(demo, form)
        for id in demo_tokenizer().encode_inside(text if form.kind == "choice" else json.dumps(text)):
            row.accept(id)
        assert STOP in allowed(row)
