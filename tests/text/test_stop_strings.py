"""An answer ends with the first id with which its text has a stop string, however tokens cut it, and nothing of the
string is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tokenizer_craft import DECODERS, write
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.text.byte_run import ByteRun
from elm_mlx.text.stop_strings import StopStrings
from elm_mlx.text.stops import START, Stops
from elm_mlx.text.tokenizer import Tokenizer

each_count = pytest.mark.parametrize("count", [25, pytest.param(600, marks=pytest.mark.slow)])
JOINING = ["llama-3", "sentencepiece", "metaspace-bytes", "strip-two"]  # kinds whose decoding joins bytes
WORDS = ["the", " cat", " ", "  ", "\n", "\n\n", "é", "字", "😀", "e\u0301", "<s>", "</s>", "a", "b", "ab", "moon"]
STOPS = st.lists(
    st.sampled_from([*WORDS, "\n\n", "t", "ca", "at the", " c", "ab\n", "aab", "x" * 40, "\u0301", "<|eot_id|>"]),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="session", params=["llama-3", *DECODERS])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One tokenizer of each kind."""
    return write(tmp_path_factory.mktemp("tokenizers") / "tokenizer.json", request.param)


@pytest.fixture(scope="session", params=JOINING)
def joining(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One tokenizer of each kind that shows bytes as characters."""
    return write(tmp_path_factory.mktemp("tokenizers") / "tokenizer.json", request.param)


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write(tmp_path_factory.mktemp("byte-level") / "tokenizer.json", "llama-3")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write(tmp_path_factory.mktemp("small") / "tokenizer.json", "sentencepiece")


def streamed(tokenizer: Tokenizer, ids: list[int], strings: list[str]) -> tuple[list[str], str | None, int]:
    """(the pieces of an answer that has these ids at most, its stop string, how many ids it took)."""
    text = StopStrings(tokenizer, Stops(strings))
    pieces = []
    for count, token in enumerate(ids, 1):
        piece, string = text.read(token)
        pieces.append(piece)
        if string is not None:
            return pieces, string, count
    return [*pieces, text.flush()], None, len(ids)


def first_stop(text: str, strings: list[str]) -> tuple[str, str | None]:
    """The plain twin on a whole text: (what stands before the first stop string, that string)."""
    found = min(((text.find(one), len(one), one) for one in strings if one in text), default=None)
    return (text[: found[0]], found[2]) if found else (text, None)


def expected(tokenizer: Tokenizer, ids: list[int], strings: list[str]) -> tuple[str, str | None, int]:
    """The plain twin: the text of ever more ids is looked through, from its beginning."""
    for count in range(1, len(ids) + 1):
        text, string = first_stop(tokenizer.decode(ids[:count]), strings)
        if string is not None:
            return text, string, count
    return tokenizer.decode(ids), None, len(ids)


@each_count
def test_an_answer_ends_where_the_twin_finds_a_stop_string_in_its_whole_text(joining: Tokenizer, count: int) -> None:
    size = joining.vocab_size + len(joining.added_ids)
    drawn = st.integers(0, size + 8) | st.integers(3, 258) | st.integers(size - 8, size)

    @settings(max_examples=count)
    @given(st.lists(drawn, max_size=30), STOPS)
    def check(ids: list[int], strings: list[str]) -> None:
        pieces, *end = streamed(joining, ids, strings)
        assert ("".join(pieces), *end) == expected(joining, ids, strings)

    check()


@each_count
def test_text_that_is_cut_anywhere_ends_where_the_twin_ends_it(joining: Tokenizer, count: int) -> None:
    @settings(max_examples=count)
    @given(st.lists(st.sampled_from(WORDS), max_size=10), st.data())
    def check(words: list[str], data: st.DataObject) -> None:
        whole = "".join(words)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
        parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        ids = [token for part in parts for token in joining.encode_text(part)]
        text = joining.decode(ids)
        a, b = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
        strings = data.draw(STOPS) + ([text[a:b]] if a < b and "\ufffd" not in text[a:b] else [])
        pieces, *end = streamed(joining, ids, strings)
        assert ("".join(pieces), *end) == expected(joining, ids, strings)

    check()


@each_count
def test_with_any_tokenizer_no_stop_string_is_shown_and_all_text_before_it_is(tokenizer: Tokenizer, count: int) -> None:
    size = tokenizer.vocab_size + len(tokenizer.added_ids)

    @settings(max_examples=count)
    @given(st.lists(st.integers(0, size + 8), max_size=30), STOPS | st.just(["\ufffd"]) | st.just(["<0x", "\u2581"]))
    def check(ids: list[int], strings: list[str]) -> None:
        pieces, _, taken = streamed(tokenizer, ids, strings)
        text = StopStrings(tokenizer, Stops(strings)).text_of(ids[:taken])
        assert "".join(pieces) == text == first_stop(tokenizer.decode(ids[:taken]), strings)[0]

    check()


@each_count
def test_no_more_is_held_back_than_may_become_a_stop_string(byte_level: Tokenizer, count: int) -> None:
    @settings(max_examples=count)
    @given(st.lists(st.sampled_from(WORDS), max_size=10), STOPS)
    def check(words: list[str], strings: list[str]) -> None:
        text, shown, ids = StopStrings(byte_level, Stops(strings)), "", list[int]()
        for token in byte_level.encode_text("".join(words)):
            ids.append(token)
            piece, string = text.read(token)
            shown += piece
            if string is not None:
                break
            whole = byte_level.decode(ids).removesuffix("\ufffd")
            held = max((n for one in strings for n in range(len(one)) if whole.endswith(one[:n])), default=0)
            assert shown == whole[: len(whole) - held]
            assert "".join(streamed(byte_level, ids, strings)[0]) == byte_level.decode(ids)

    check()


def scanned(text: str, *strings: str) -> tuple[str, str | None]:
    """(the text before the first stop string, that string), character by character."""
    stops, state = Stops(strings), START
    for end, character in enumerate(text, 1):
        state, match = stops.scan(state, character)
        if match:
            assert match.begin == 1 - len(match.string)
            return text[: end - len(match.string)], match.string
    return text, None


def test_strings_that_overlap_end_a_text_where_the_first_is_whole() -> None:
    assert scanned("xabc", "abc", "b") == ("xa", "b")
    assert scanned("xab", "ab", "b") == ("x", "ab")
    assert scanned("xabab", "aba", "ababx") == ("x", "aba")
    assert scanned("aaab", "aab") == ("a", "aab")
    assert scanned("abcabd", "abcabe", "bd") == ("abca", "bd")


def test_in_one_piece_the_earliest_beginning_wins_and_then_the_shortest() -> None:
    def found(piece: str, *strings: str) -> object:
        return Stops(strings).scan(START, piece)[1]

    assert found("xabc", "b", "abc") == (1, "abc")
    assert found("xabc", "abc", "ab") == (1, "ab")
    assert found("xabc", "d") is None


def test_a_stop_string_in_the_first_token_leaves_no_text(byte_level: Tokenizer) -> None:
    (the,) = byte_level.encode_text("the")
    assert streamed(byte_level, [the], ["t"]) == ([""], "t", 1)
    assert streamed(byte_level, [the], ["he", "e"]) == (["t"], "he", 1)


def test_what_was_held_back_is_shown_where_the_answer_ends_otherwise(byte_level: Tokenizer) -> None:
    ids = byte_level.encode_text("the cat")
    pieces, string, _ = streamed(byte_level, ids, ["cat sat", "the cat and all that is longer than the answer"])
    assert (pieces[:-1], pieces[-1], string) == ([""] * len(ids), "the cat", None)


def test_a_newline_of_a_byte_token_ends_the_answer_at_once(small: Tokenizer) -> None:
    """StreamDecoder waits for the end of a run of bytes, which a model that writes newlines for ever never brings."""
    (the,) = small.encode_text("the")
    newline = 3 + ord("\n")
    assert streamed(small, [the, newline, newline, newline], ["\n\n"]) == (["the", "", ""], "\n\n", 3)
    assert streamed(small, [newline, the], ["\n"]) == ([""], "\n", 1)


def test_a_run_of_bytes_that_is_no_character_has_no_stop_string(small: Tokenizer) -> None:
    bad = [3 + byte for byte in b"\xff\n\n"]
    assert streamed(small, bad, ["\n"]) == (["", "", "", "\ufffd" * 3], None, 3)


def test_a_special_token_stands_inside_a_character_of_bytes_and_a_word_ends_a_run(small: Tokenizer) -> None:
    first, *rest = (3 + byte for byte in "é".encode())
    end = small.control_ids["<|eot_id|>"]
    assert streamed(small, [first, end, *rest, end], ["é"])[1:] == ("é", 3)
    (the,) = small.encode_text("the")
    assert streamed(small, [3 + 0xFF, the, 3 + ord("\n"), the], ["\n"])[1:] == ("\n", 3)


@pytest.mark.parametrize("kind", ["llama-3", *DECODERS])
def test_bytes_are_looked_at_only_where_decoding_joins_them(kind: str, tmp_path: Path) -> None:
    tokenizer = write(tmp_path / "tokenizer.json", kind)
    joins = kind in JOINING and kind != "llama-3"
    assert tokenizer.joins_bytes == joins
    if kind != "llama-3":
        assert tokenizer.byte_of(3 + 10) == (10 if joins else None)
        assert tokenizer.byte_of(300) is None


def test_a_blank_that_the_tokenizer_strips_is_no_stop_string(small: Tokenizer) -> None:
    blank = 3 + ord(" ")
    assert streamed(small, [blank, blank], [" "]) == (["", ""], " ", 2)


def test_a_stop_string_beside_an_unfinished_character_is_found(byte_level: Tokenizer) -> None:
    first, *rest = byte_level.encode("ÿ")
    assert rest
    assert streamed(byte_level, [*rest, first, *rest], ["ÿ"])[1:] == ("ÿ", 1 + 2 * len(rest))
    word = byte_level.encode("the")
    assert streamed(byte_level, [*word, first], ["the"])[0][-1] == ""


def test_special_tokens_are_no_text_and_their_names_written_out_are(byte_level: Tokenizer) -> None:
    end = byte_level.control_ids["<|eot_id|>"]
    ids = byte_level.encode_text("the<|eot_id|>")
    assert end not in ids
    pieces, *found = streamed(byte_level, ids, ["<|eot_id|>"])
    assert ("".join(pieces), *found) == ("the", "<|eot_id|>", len(ids))
    assert streamed(byte_level, [end], ["<|eot_id|>"])[1] is None


@given(st.lists(st.integers(0, 255) | st.sampled_from(list("é😀\n".encode())), max_size=12))
def test_a_run_shows_its_characters_while_it_is_valid(run: list[int]) -> None:
    chars, reader = "", ByteRun()
    for n, byte in enumerate(run, 1):
        char = reader.add(byte)
        chars += char
        try:
            whole = bytes(run[:n]).decode()
        except UnicodeDecodeError:
            assert char == ""
        else:
            assert chars == whole


def test_a_long_answer_costs_no_more_an_id_and_keeps_nothing(byte_level: Tokenizer) -> None:
    ids = byte_level.encode_text("the cat sat on the mat and looked at the moon\n") * 100
    text = StopStrings(byte_level, Stops(["\n\n", "the catx", "moon\nx", "x" * 256]))
    for token in ids:
        assert text.add(token) is None
    assert len(text._held) < 10
    assert len(text._decoder._window) <= 2
