"""Decoding token by token gives what decoding at once gives, whatever is drawn and wherever it is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import checkpoints
from helpers.tokenizer_craft import DECODERS, EMPTY, SMALL, sentencepiece, write
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.stream_decoder import StreamDecoder
from elm_mlx.text.tokenizer import Tokenizer

each_count = pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
TEXT = ["😀", "👩‍👩‍👧", "\u200d", " ", "   ", "\0", "é", "字", "the", " cat", "\n", "\ufffd", "\u2581", "e\u0301",
        "<s>", "moon"]  # fmt: skip


@pytest.fixture(scope="session", params=["llama-3", *DECODERS])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One tokenizer of each kind."""
    return write(tmp_path_factory.mktemp("tokenizers") / "tokenizer.json", request.param)


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.from_file(checkpoints.TOKENIZER / "tokenizer.json", TokenizerSettings())


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write(tmp_path_factory.mktemp("byte-level") / "tokenizer.json", "llama-3")


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """What each id settles, and at the end what was held back."""
    decoder = StreamDecoder(tokenizer)
    return [*map(decoder.add, ids), decoder.flush()]


@each_count
def test_any_ids_stream_to_their_decoding(tokenizer: Tokenizer, count: int) -> None:
    size = tokenizer.vocab_size + len(tokenizer.added_ids)
    drawn = st.integers(0, size + 8) | st.integers(3, 258) | st.integers(size - 8, size)

    @settings(max_examples=count)
    @given(st.lists(drawn, max_size=30))
    def check(ids: list[int]) -> None:
        assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)

    check()


@each_count
def test_text_cut_anywhere_streams_to_its_decoding(tokenizer: Tokenizer, count: int) -> None:
    @settings(max_examples=count)
    @given(st.lists(st.sampled_from(TEXT), max_size=8), st.integers(0, 20), st.integers(0, 30))
    def check(words: list[str], start: int, length: int) -> None:
        ids = tokenizer.encode("".join(words))[start : start + length]
        assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)

    check()


@each_count
def test_bytes_cut_anywhere_stream_to_their_decoding(small: Tokenizer, count: int) -> None:
    word = small.encode(" the")

    @settings(max_examples=count)
    @given(st.text(max_size=12), st.integers(0, 12), st.binary(max_size=3))
    def check(text: str, cut: int, junk: bytes) -> None:
        ids = [3 + byte for byte in text.encode()[cut:] + junk]
        assert "".join(pieces(small, ids)) == small.decode(ids)
        assert "".join(pieces(small, [*word, *ids, *word])) == small.decode([*word, *ids, *word])

    check()


@each_count
def test_byte_level_text_waits_only_for_an_unfinished_character(byte_level: Tokenizer, count: int) -> None:
    @settings(max_examples=count)
    @given(st.lists(st.integers(0, byte_level.vocab_size + 4), max_size=20))
    def check(ids: list[int]) -> None:
        shown = ""
        for n, piece in enumerate(pieces(byte_level, ids)[:-1], start=1):
            shown += piece
            assert shown == byte_level.decode(ids[:n]).removesuffix("\ufffd")

    check()


def test_words_come_out_token_by_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the cat sat on the mat   and  looked")
    shown = ""
    for n, piece in enumerate(pieces(tokenizer, ids)[:-1], start=1):
        shown += piece
        assert shown == tokenizer.decode(ids[:n])
    assert shown == tokenizer.decode(ids)


def test_a_run_of_bytes_comes_out_with_the_next_word(small: Tokenizer) -> None:
    (the,) = small.encode_text("the")
    ids = [the, *(3 + byte for byte in "\n😀".encode()), the]
    assert pieces(small, ids) == ["the", "", "", "", "", "", "\n😀 the", ""]


def test_a_run_of_bytes_that_ends_badly_is_no_character_at_all(small: Tokenizer) -> None:
    ids = [3 + byte for byte in "😀".encode() + b"\xff"]
    assert "".join(pieces(small, ids)) == small.decode(ids) == "\ufffd" * 5


def test_special_tokens_inside_a_character_do_not_break_it(small: Tokenizer, byte_level: Tokenizer) -> None:
    first, *rest = (3 + byte for byte in "é".encode())
    assert "".join(pieces(small, [first, 2, *rest])) == "é"
    first, *rest = byte_level.encode("ÿ")
    assert rest
    end = byte_level.control_ids["<|eot_id|>"]
    assert "".join(pieces(byte_level, [first, end, *rest, end])) == "ÿ"


def test_an_entry_without_text_does_not_swallow_the_next_blank(tmp_path: Path) -> None:
    sentencepiece(tmp_path / "tokenizer.json", SMALL["decoder"])
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json", TokenizerSettings())
    word = tokenizer.encode("the")
    assert "".join(pieces(tokenizer, [*word, EMPTY, *word])) == "the the"


def test_a_flushed_decoder_begins_a_new_text(small: Tokenizer) -> None:
    decoder = StreamDecoder(small)
    for _ in range(2):
        assert "".join(map(decoder.add, small.encode(" the cat"))) + decoder.flush() == " the cat"
    assert decoder.flush() == ""


def test_the_window_stays_short(small: Tokenizer) -> None:
    decoder = StreamDecoder(small)
    for token in small.encode("the cat sat on the mat and looked at the moon " * 20):
        decoder.add(token)
        assert len(decoder._window) <= 2


def test_a_long_run_of_broken_bytes_costs_no_more_than_its_length(byte_level: Tokenizer) -> None:
    """The window stays short though nothing in the run settles."""
    lead = byte_level.encode("\U0001f600")[0]  # F0, which begins four bytes, and never goes on
    decoder = StreamDecoder(byte_level)
    ids = [lead] * 500
    pieces = [decoder.add(token) for token in ids]
    assert len(decoder._window) <= 17
    assert "".join(pieces) + decoder.flush() == byte_level.decode(ids)
