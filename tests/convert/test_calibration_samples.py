"""Windows of calibration text: mixed of all texts, the same each time, and refused where a model cannot read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from elm_mlx.convert.calibrate.samples import in_turns, passages, shipped, windows
from elm_mlx.errors import InvalidRequest
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "examples/demo_model/demo/tokenizer.json"
ROWS = 2048
KINDS = [f"{kind} {number}.\n" * 300 for kind, number in zip(("red", "blue", "green"), "123", strict=True)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(DEMO, TokenizerSettings(adds_bos=True), 1, ROWS)


def test_windows_are_full_and_begin_with_bos(tokenizer: Tokenizer) -> None:
    found = windows(tokenizer, ROWS, KINDS, 6, 50)
    assert [len(window) for window in found] == [50] * 6
    assert {window[0] for window in found} == {tokenizer.bos_token_id}
    assert tokenizer.bos_token_id not in {one for window in found for one in window[1:]}


def test_windows_begin_with_a_line_where_lines_fit(tokenizer: Tokenizer) -> None:
    texts = ["Once upon a time there was a little girl.\n" * 300] * 3
    begun = [
        tokenizer.decode(window[1:]).startswith("Once upon") for window in windows(tokenizer, ROWS, texts, 12, 128)
    ]
    assert sum(begun) >= 8


def test_ends_of_passages_are_read_before_the_windows_are_fewer(tokenizer: Tokenizer) -> None:
    tokens = sum(len(tokenizer.encode_text(text)) for text in KINDS)
    for length in (50, 128, 300):
        assert len(windows(tokenizer, ROWS, KINDS, 10_000, length)) >= tokens // (length - 1) - 1


def test_the_same_texts_give_the_same_windows(tokenizer: Tokenizer) -> None:
    assert windows(tokenizer, ROWS, KINDS, 6, 50) == windows(tokenizer, ROWS, KINDS, 6, 50)


def test_few_windows_hold_every_text(tokenizer: Tokenizer) -> None:
    text = " ".join(tokenizer.decode(window[1:]) for window in windows(tokenizer, ROWS, KINDS, 4, 128))
    assert all(kind in text for kind in ("red", "blue", "green"))


def test_any_beginning_of_the_turns_has_an_equal_share_of_each_text_from_all_over_it() -> None:
    texts = ["".join(f"{kind}{line:04}\n" for line in range(400)) for kind in "ab"]
    turns = list(in_turns(texts, 20))
    assert sorted(turns) == sorted(passage for text in texts for passage in passages(text, 20))
    for share in (0.1, 0.25, 0.5):
        beginning = turns[: round(share * len(turns))]
        for kind in "ab":
            lines = sorted(int(passage[1:5]) for passage in beginning if passage[0] == kind)
            assert abs(len(lines) - len(beginning) / 2) <= 2
            assert max(b - a for a, b in zip([0, *lines], [*lines, 400], strict=True)) <= 2.7 * 4 / share


@pytest.mark.parametrize("text", ["", "a", "\n\n \n", "one\ntwo\n", "x" * 1000, "line\n" * 90 + "y" * 333])
@pytest.mark.parametrize("size", [1, 7, 200])
def test_passages_are_the_text_but_for_blank_ones(text: str, size: int) -> None:
    found = list(passages(text, size))
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(passage.strip() and len(passage) <= 2 * size for passage in found)
    assert all(len(passage) >= size for passage in found[:-1])


def test_texts_that_end_early_give_fewer_windows(tokenizer: Tokenizer) -> None:
    assert 0 < len(windows(tokenizer, ROWS, ["Once upon a time. " * 40], 100, 32)) < 20


def test_a_text_shorter_than_a_window_is_one_shorter_window(tokenizer: Tokenizer) -> None:
    assert windows(tokenizer, ROWS, ["Once upon a time"], 8, 64) == [tokenizer.encode("Once upon a time")]


@pytest.mark.parametrize("texts", [[], [""], [" \n\t ", "\n"]])
def test_a_text_without_a_token_is_refused(tokenizer: Tokenizer, texts: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        windows(tokenizer, ROWS, texts, 8, 64)


def test_an_id_that_the_model_lacks_is_refused_by_name(tokenizer: Tokenizer) -> None:
    highest = max(tokenizer.encode("Once upon a time"))
    with pytest.raises(InvalidRequest, match=f"{highest} is not a token id of this model"):
        windows(tokenizer, highest, ["Once upon a time"], 8, 64)


def test_many_texts_are_spread_over_when_the_windows_hold_few(tokenizer: Tokenizer) -> None:
    texts = [f"Text {number}. " + "A long line of words follows. " * 20 for number in range(100, 1000)]
    text = " ".join(tokenizer.decode(window[1:]) for window in windows(tokenizer, ROWS, texts, 2, 256))
    numbers = [number for number in range(100, 1000) if f"Text {number}." in text]
    assert min(numbers) < 300 < 800 < max(numbers)


def test_the_shipped_texts_are_many_kinds_and_need_no_network(tokenizer: Tokenizer) -> None:
    texts = shipped()
    assert len(texts) >= 10
    assert len(windows(tokenizer, ROWS, texts, 16, 512)) == 16
