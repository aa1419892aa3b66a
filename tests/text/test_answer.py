"""The ids of an answer in parts: stop strings end it where they would without parts, and no special token is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from helpers import tokenizer_craft
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from elm_mlx.text.answer import Reading
from elm_mlx.text.marks import PAIRS, Marks, find_marks
from elm_mlx.text.parts import Part, joined
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.stop_strings import StopStrings
from elm_mlx.text.stops import Stops
from elm_mlx.text.tokenizer import Tokenizer

CALL = '{"name": "f", "parameters": {"a": "é 字"}}'
WORDS = ["the", " cat", "\n", "é", "字", "😀", "{", '"', CALL, CALL[:20], "[f(", "<function=f>", "<think>", "</think>",
         "<|python_tag|>", "<|eot_id|>"]  # fmt: skip
each_count = pytest.mark.parametrize("count", [40, pytest.param(1500, marks=pytest.mark.slow)])


def crafted(folder: Path, special: bool) -> Tokenizer:
    """A byte-level tokenizer with marks that are special tokens, or tokens whose text is shown."""
    tokenizer_craft.llama3(folder / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|python_tag|>"])
    tokenizer.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in ("<think>", "</think>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    return Tokenizer.from_file(folder / "tokenizer.json", TokenizerSettings())


@pytest.fixture(scope="module", params=[True, False], ids=["special", "shown"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return crafted(tmp_path_factory.mktemp("answers"), request.param)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which added tokens count as such."""
    pieces = tokenizer.added_tokens.split(text)
    return [
        token
        for number, piece in enumerate(pieces)
        for token in ([tokenizer.added_ids[piece]] if number % 2 else tokenizer.encode_text(piece))
    ]


def read(
    tokenizer: Tokenizer, ids: list[int], stops: list[str], reading: Reading
) -> tuple[list[Part], str | None, int]:
    """(the parts, the stop string, how many ids it took)."""
    answer = reading.answer(StopStrings(tokenizer, Stops(stops)))
    parts: list[Part] = []
    for count, token in enumerate(ids, 1):
        found, string = answer.read(token)
        parts += found
        if string is not None:
            return joined([*parts, *answer.end(is_whole=False)]), string, count
    return joined([*parts, *answer.end(is_whole=True)]), None, len(ids)


@each_count
def test_parts_change_neither_the_text_nor_where_a_stop_string_ends_it(tokenizer: Tokenizer, count: int) -> None:
    marks, size = find_marks(tokenizer, []), tokenizer.vocab_size + len(tokenizer.added_ids)
    plain = [word for word in WORDS if "think" not in word]
    ids_drawn = st.lists(st.integers(0, size + 3), max_size=20) | st.lists(st.sampled_from(plain), max_size=8).map(
        lambda words: ids_of(tokenizer, "".join(words))
    )

    @settings(max_examples=count)
    @given(ids_drawn, st.lists(st.sampled_from(["cat", "\n", "é 字", '"a"', "{", "x"]), max_size=2))
    def check(ids: list[int], stops: list[str]) -> None:
        thinking = {tokenizer.added_ids["<think>"], tokenizer.added_ids["</think>"]}
        ids = [token for token in ids if token not in thinking]
        assume("<think>" not in tokenizer.decode(ids))
        text = StopStrings(tokenizer, Stops(stops))
        end = next((place for place, token in enumerate(ids, 1) if text.add(token) is not None), len(ids))
        parts, _, taken = read(tokenizer, ids, stops, Reading(marks, schemas={"f": {}}))
        assert taken == end
        assert "".join(part.text for part in parts) == StopStrings(tokenizer, Stops(stops)).text_of(ids[:taken])

    check()


def test_a_mark_counts_where_it_stood_though_text_before_it_was_held_back(tokenizer: Tokenizer) -> None:
    marks = find_marks(tokenizer, [])
    assert (marks.begin, marks.end, marks.tool) == (*PAIRS[0], "<|python_tag|>")
    ids = ids_of(tokenizer, f"<think>the cat</think>the dog<|python_tag|>{CALL}")
    expected = [Part("reasoning", "the cat"), Part("text", "the dog"), Part("tool", CALL)]
    for stops in ([], ["the catapult", "dogged", "the dog{?", "xyz"]):
        parts, string, _ = read(tokenizer, ids, stops, Reading(marks, schemas={}))
        assert [Part(part.kind, part.text) for part in parts] == expected
        assert string is None
        assert parts[-1].call
        assert parts[-1].call.arguments == {"a": "é 字"}


def test_ids_of_calls_are_those_of_the_key(tokenizer: Tokenizer) -> None:
    def names(key: str) -> list[str]:
        reading = Reading(Marks(), schemas={}, key=key)
        parts, *_ = read(tokenizer, ids_of(tokenizer, CALL + CALL), [], reading)
        return [part.call.id for part in parts if part.call]

    assert names("a") == names("a")
    assert len({*names("a"), *names("b")}) == 4


def test_a_prompt_may_have_begun_the_reasoning(tokenizer: Tokenizer) -> None:
    marks = find_marks(tokenizer, [])
    for text, begun in [
        ("<think>", True), ("the<think>\n", True), ("<think>\n\n</think>\n\n", False), ("<think> cat", False),
        ("the cat", False), ("", False),
    ]:  # fmt: skip
        assert marks.is_reasoning_after(ids_of(tokenizer, text), tokenizer) == begun, text
    assert not Marks().is_reasoning_after(ids_of(tokenizer, "<think>"), tokenizer)


def test_marks_are_found_in_templates_and_tokens_and_nowhere_else(tmp_path: Path) -> None:
    tokenizer = tokenizer_craft.write(tmp_path / "tokenizer.json", "sentencepiece")
    assert find_marks(tokenizer, ["{{ messages }}", "<think>"]) == Marks()
    for begin, end in PAIRS:
        marks = find_marks(tokenizer, [f"{{{{ content.split('{end}') }}}}", f"{begin}\n"])
        assert (marks.begin, marks.end, marks.ids) == (begin, end, {})
        assert marks.is_reasoning_after(tokenizer.encode(f"the cat {begin}\n"), tokenizer)
        parts, *_ = read(tokenizer, tokenizer.encode(f"{begin}the cat{end}\nthe"), [], Reading(marks))
        assert parts == [Part("reasoning", "the cat"), Part("text", "the")]
