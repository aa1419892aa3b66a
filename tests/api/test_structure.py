"""Answers with a form through every call, and the values that they become."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import pydantic
import pytest
from helpers.forms import demo_tokenizer
from pydantic.dataclasses import dataclass as pydantic_dataclass

import elm_mlx
from elm_mlx.api.dataclass_schema import instance_of, schema_of
from elm_mlx.api.structure import Structure, form_in, read_json, structure_of, value_of
from elm_mlx.engine.request import Request
from elm_mlx.errors import Cancelled, InvalidRequest, NotEnforceable
from elm_mlx.text import grammar
from elm_mlx.text.grammar import Grammars

TEXT = "Once upon a time there was"


class Mood(Enum):
    GLAD, SAD = "glad", "sad"


@dataclass
class Animal:
    legs: int
    kind: Literal["cat", "dog"] = "cat"
    friend: Animal | None = None


@dataclass
class Story:
    mood: Annotated[Mood, "how it ends"]
    hero: Animal
    worth: float
    ages: list[int]
    heights: dict[str, float] = field(default_factory=dict)
    pair: tuple[bool, ...] = ()
    note: str | int | None = None
    hidden: int = field(default=3, init=False)


class Cat(pydantic.BaseModel, extra="forbid"):
    lives: int = pydantic.Field(ge=0, le=9)
    is_black: bool


@pytest.fixture(scope="module")
def demo() -> elm_mlx.LanguageModel:
    return elm_mlx.load(rows=4)


# Values


def test_every_form_gives_an_answer_that_has_it_and_its_value(demo: elm_mlx.LanguageModel) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    grammar = 'start: "I " VERB "."\nVERB: "see" | "hear"'
    strict = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    assert demo.generate(TEXT, 30, schema=schema).parsed in ({"a": True}, {"a": False})
    assert demo.generate(TEXT, 30, schema=json.dumps(schema)).parsed in ({"a": True}, {"a": False})
    assert demo.generate(TEXT, 30, response_format=strict).parsed in ({"a": True}, {"a": False})
    assert demo.generate(TEXT, 30, choices=["yes", "no"]).parsed in ("yes", "no")
    assert re.fullmatch("[0-9]{2}x", demo.generate(TEXT, 30, regex="[0-9]{2}x").parsed)
    assert demo.generate(TEXT, 30, grammar=grammar).parsed in ("I see.", "I hear.")
    assert demo.generate(TEXT, 5, response_format={"type": "text"}).parsed is None
    cat = demo.generate(TEXT, 30, schema=Cat).parsed
    assert isinstance(cat, Cat)
    assert 0 <= cat.lives <= 9


def test_every_call_gives_the_same_answer(demo: elm_mlx.LanguageModel) -> None:
    options: dict[str, Any] = {"regex": "[a-z]{3}[0-9]", "temperature": 1.0, "seed": 5}
    one = demo.generate(TEXT, 20, **options)
    stream = demo.stream(TEXT, 20, **options)
    assert ("".join(piece.text for piece in stream), stream.completion.parsed) == (one.text, one.text)

    async def both() -> list[elm_mlx.Completion]:
        return [await demo.agenerate(TEXT, 20, **options), await demo.astream(TEXT, 20, **options).aresult()]

    others = [*demo.batch([TEXT], 20, **options), *demo.completions(TEXT, 1, 20, **options), *asyncio.run(both())]
    assert [(other.tokens, other.parsed) for other in others] == [(one.tokens, one.text)] * 4


def test_an_answer_that_is_cut_or_ended_by_a_stop_string_has_no_value(demo: elm_mlx.LanguageModel) -> None:
    cut = demo.generate(TEXT, 3, schema={"type": "array", "items": {"type": "integer"}, "minItems": 4})
    assert (cut.finish_reason, cut.parsed) == ("length", None)
    stopped = demo.generate(TEXT, 20, choices=["yes then", "yes now"], stop="s ")
    assert (stopped.finish_reason, stopped.stop_reason, stopped.text, stopped.parsed) == ("stop", "s ", "ye", None)


def test_a_cancelled_answer_has_no_value_and_the_next_one_has(demo: elm_mlx.LanguageModel) -> None:
    stream = demo.stream(TEXT, 100, regex="[a-z]{200,}")
    next(stream)
    stream.cancel()
    assert stream.completion.parsed is None
    assert demo.generate(TEXT, 20, choices=["yes"]).parsed == "yes"


def test_a_dataclass_becomes_an_instance(demo: elm_mlx.LanguageModel) -> None:
    answer = demo.generate(TEXT, 40, schema=Animal, logit_bias=dict.fromkeys((128,), 9.0), temperature=1.0, seed=2)
    assert isinstance(answer.parsed, Animal) if answer.finish_reason == "stop" else answer.parsed is None


# Dataclasses as schemas


def test_the_schema_of_a_dataclass_has_its_fields_in_order() -> None:
    found = schema_of(Story)
    story = found["$defs"]["Story"]
    assert found["$ref"] == "#/$defs/Story"
    assert list(story["properties"]) == ["mood", "hero", "worth", "ages", "heights", "pair", "note"]
    assert story["required"] == ["mood", "hero", "worth", "ages"]
    assert story["properties"]["mood"] == {"enum": ["glad", "sad"], "description": "how it ends"}
    assert story["properties"]["note"] == {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}
    assert found["$defs"]["Animal"]["properties"]["friend"]["anyOf"][0] == {"$ref": "#/$defs/Animal"}


def test_instances_are_built_through_every_kind() -> None:
    value = {"mood": "sad", "hero": {"legs": 4, "friend": {"legs": 2, "kind": "dog"}}, "worth": 3, "ages": [1, 2],
             "heights": {"x": 1}, "pair": [True], "note": 7}  # fmt: skip
    assert instance_of(Story, value) == Story(
        Mood.SAD, Animal(4, "cat", Animal(2, "dog")), 3.0, [1, 2], {"x": 1.0}, (True,), 7
    )


@dataclass
class Odd:
    when: complex


@dataclass
class Lost:
    other: Nowhere  # type: ignore[name-defined]  # noqa: F821


class Pair(Enum):
    ONE, OTHER = (1, 2), (3, 4)


@dataclass
class Paired:
    pair: Pair


@dataclass
class Bounded:
    legs: Annotated[int, {"ge": 0}]


class Handled(pydantic.BaseModel):
    call: Callable[[], int]


@pydantic_dataclass
class Dog:
    legs: int = pydantic.Field(ge=0, le=4)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Dog, "Dog is a dataclass that pydantic has made"),
        (Odd, "Odd.when is of the kind"),
        (Lost, "annotations of Lost"),
        (Paired, "Paired.pair is of the kind"),
        (Bounded, "Bounded.legs is annotated with {'ge': 0}, which would not be enforced"),
        (Handled, "Handled has no JSON schema"),
    ],
)
def test_a_field_without_a_schema_is_refused_by_its_name(made: type, words: str) -> None:
    with pytest.raises(NotEnforceable, match=words):
        form_in({"schema": made})


# What is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schema": {}, "regex": "a"}, "schema and regex each give a form"),
        ({"schema": 5}, "schema is of type int"),
        ({"schema": "{"}, "not valid JSON"),
        ({"schema": "[" * 5000}, "not valid JSON"),
        ({"schema": " " * 70_000}, "it may have 65,536"),
        ({"regex": ""}, "regex is ''"),
        ({"regex": b"a"}, "it must be a text"),
        ({"regex": "\ud800"}, "it must be a text"),
        ({"choices": []}, "choices has 0 texts"),
        ({"choices": ["a"] * 5000}, "choices has 5,000 texts"),
        ({"choices": "yes"}, "must be a list of texts"),
        ({"choices": [1]}, "A text in choices is 1"),
        ({"choices": ["a" * 5000]}, "A text in choices has 5,000 characters"),
        ({"choices": [""]}, "not an empty one"),
        ({"grammar": "start: x\nx: %json {}"}, "%json"),
        ({"response_format": {"type": "sound"}}, '"type" must be'),
        ({"response_format": "json"}, '"type" must be'),
        ({"response_format": {"type": "json_object", "schema": {}}}, "has 'schema', which means nothing"),
        ({"response_format": {"type": "json_schema"}}, 'no "schema"'),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, '"not" at #'),
    ],
)
def test_what_is_no_form_is_refused_before_anything_is_queued(
    demo: elm_mlx.LanguageModel, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        demo.submit(TEXT, 5, **options)
    with pytest.raises(InvalidRequest, match=words):
        demo.batch([], 5, **options)


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, '{"lives":"x","is_black":true}', '{"lives":1}', ""])
def test_what_the_class_or_python_refuses_is_no_value(text: str) -> None:
    asked = form_in({"schema": Cat})
    assert asked
    structure = Structure(Future(), lambda row: pytest.fail("nothing is begun"), asked.read)
    assert value_of(Request((1,), constraint=structure), text, "stop", 2) is None
    assert value_of(Request((1,), constraint=structure), '{"lives":1,"is_black":true}', "stop", 2) == Cat(
        lives=1, is_black=True
    )


class Bird(pydantic.BaseModel, extra="forbid"):
    kind: Literal["bird"]


class Fish(pydantic.BaseModel, extra="forbid"):
    kind: Literal["fish"]


class Day(pydantic.BaseModel, strict=True):
    when: date
    pair: tuple[int, int]
    mood: Mood


class Home(pydantic.BaseModel, extra="forbid"):
    of: Annotated[Bird | Fish, pydantic.Field(discriminator="kind")]


@dataclass
class Choosy:
    worth: float

    def __post_init__(self) -> None:
        if self.worth < 0:
            raise KeyError(self.worth)


def read(made: type, text: str) -> Any:
    """What an answer becomes."""
    asked = form_in({"schema": made})
    assert asked
    structure = Structure(Future(), lambda row: pytest.fail("nothing is begun"), asked.read)
    return value_of(Request((1,), constraint=structure), text, "stop", 2)


def test_a_strict_model_of_pydantic_is_read_as_from_json() -> None:
    day = read(Day, '{"when":"2024-02-29","pair":[1,2],"mood":"sad"}')
    assert day == Day(when=date(2024, 2, 29), pair=(1, 2), mood=Mood.SAD)


def test_a_union_with_a_discriminator_of_pydantic_is_enforced(demo: elm_mlx.LanguageModel) -> None:
    assert demo.generate(TEXT, 30, schema=Home).parsed in (Home(of=Bird(kind="bird")), Home(of=Fish(kind="fish")))


def test_whatever_a_class_raises_there_is_no_value() -> None:
    assert (read(Choosy, '{"worth":1}'), read(Choosy, '{"worth":-1}')) == (Choosy(1.0), None)


# Numbers


def test_numbers_beyond_what_python_reads_are_read() -> None:
    most = sys.float_info.max
    assert read_json("[1e999,-1e999,1.5]") == [most, -most, 1.5]
    assert read_json("9" * 5000) == int(Decimal("9" * 5000))
    assert read(Choosy, '{"worth":1' + "0" * 400 + "}") == Choosy(most)


def test_a_form_for_which_there_is_no_room_is_refused(demo: elm_mlx.LanguageModel) -> None:
    schema = {"type": "string", "minLength": 3000}
    for options in ({"schema": schema}, {"choices": ["a" * 3000]}):
        with pytest.raises(NotEnforceable, match=r"takes at least \d+ tokens, and there is room for 20"):
            demo.generate(TEXT, 20, **options)
    with pytest.raises(NotEnforceable, match="there is room for"):
        demo.generate(TEXT, 100_000, schema=schema | {"minLength": 100_000})
    with pytest.raises(NotEnforceable, match="there is room for"):
        demo.generate(TEXT, None, schema=schema | {"minLength": 100_000})


def test_without_an_id_that_ends_an_answer_no_form_is_possible() -> None:
    asked = form_in({"regex": "a"})
    assert asked
    with pytest.raises(NotEnforceable, match="no token that ends an answer"):
        structure_of(asked, Grammars(demo_tokenizer(), 2048), frozenset(), None)


def test_neither_kept_prefixes_nor_proposals_nor_company_change_an_answer_with_a_form(
    demo: elm_mlx.LanguageModel,
) -> None:
    options: dict[str, Any] = {"regex": "([a-z]{1,5} ){6}", "temperature": 1.0, "seed": 4}
    alone = demo.generate(TEXT, 40, reuse=False, **options)
    company = [demo.submit(TEXT, 40, seed=9), demo.submit(TEXT, 40, choices=["yes", "no"])]
    assert demo.generate(TEXT, 40, **options).tokens == alone.tokens
    assert [stream.result().parsed in (None, "yes", "no") for stream in company] == [True, True]
    assert demo.generate(TEXT, 40, **options).tokens == alone.tokens
    assert demo.generate(TEXT, 40, lookup=True, **options).tokens == alone.tokens
    assert re.fullmatch("([a-z]{1,5} ){6}", alone.text) or alone.finish_reason == "length"


def held(lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Forgets all forms, and has every one be compiled after the event."""
    may, usual = threading.Event(), grammar.call_within

    def call_within(seconds: float, call: Callable[[], Any]) -> Any:
        may.wait(60)
        return usual(seconds, call)

    lm._maker.grammars._kept.clear()
    monkeypatch.setattr(grammar, "call_within", call_within)
    return may


def test_an_event_loop_goes_on_while_a_form_is_compiled(
    demo: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = demo.generate(TEXT, 20, choices=["yes", "no"])
    may = held(demo, monkeypatch)

    async def ask() -> list[str]:
        asked = demo.astream(TEXT, 20, choices=["yes", "no"])
        bad = demo.astream(TEXT, 20, regex="a(")
        whole = asyncio.ensure_future(demo.agenerate(TEXT, 20, choices=["yes", "no"]))
        assert (await demo.agenerate(TEXT, 2)).tokens  # another request goes on meanwhile
        assert not whole.done()
        assert not may.is_set()
        may.set()
        assert (await whole).text == wanted.text
        with pytest.raises(NotEnforceable):
            await anext(bad)
        with pytest.raises(NotEnforceable):
            await bad.aresult()
        told = "".join([piece.text async for piece in asked])
        assert (await asked.aresult()).parsed == told
        return [told]

    assert asyncio.run(ask()) == [wanted.text]


@pytest.mark.parametrize(
    "options",
    [
        {"schema": {"type": "string", "uniqueItems": True}},
        {"schema": {"enum": []}},
        {"regex": "a{1000000000}"},
        {"grammar": "start: <end>"},
        {"choices": ["a"], "regex": "a"},
    ],
)
def test_what_is_wrong_with_a_form_itself_is_raised_before_anything_is_queued(
    demo: elm_mlx.LanguageModel, options: dict[str, Any]
) -> None:
    for ask in (demo.submit, demo.stream, demo.astream):
        with pytest.raises(InvalidRequest):
            ask(TEXT, 20, **options)
    with pytest.raises(InvalidRequest):
        demo.batch([TEXT], 20, **options)
    assert not demo._worker.places.taken


def test_a_stream_says_what_is_wrong_with_its_form_before_it_is_read(
    demo: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    may = held(demo, monkeypatch)
    good, bad = demo.submit(TEXT, 20, choices=["yes", "no"]), demo.submit(TEXT, 20, regex="a(")
    short = demo.submit(TEXT, 20, choices=["a" * 3000])
    may.set()
    asyncio.run(good.prepared())
    for stream in (bad, short):
        with pytest.raises(NotEnforceable):
            asyncio.run(stream.prepared())
    assert good.result().parsed in ("yes", "no")


def test_a_form_that_becomes_too_complex_amid_an_answer_is_the_callers_fault(demo: elm_mlx.LanguageModel) -> None:
    with pytest.raises(NotEnforceable, match="cannot be followed further: it is too complex"):
        demo.generate(TEXT, 20, regex="(a?){500}a{500}")


def test_what_is_cancelled_before_its_form_is_compiled_never_begins(
    demo: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    may = held(demo, monkeypatch)
    asked = demo.astream(TEXT, 20, choices=["yes", "no"])
    left = demo.astream(TEXT, 20, choices=["yes", "no"])
    asked.cancel()
    del left
    demo.generate(TEXT, 1)  # whatever was ordered before is done
    may.set()
    with pytest.raises(Cancelled):
        asked.result(60)
    assert asked.completion.tokens == []
    end = time.monotonic() + 60
    while demo.activity.running or demo.activity.waiting or demo._worker.places.taken:
        assert time.monotonic() < end
        time.sleep(0.001)
