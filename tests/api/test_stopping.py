"""Stop strings through every call: the answer ends before the first one, read or not, and says which it was."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.errors import Cancelled, InvalidRequest

LENGTH = 24


@pytest.fixture(scope="module")
def demo() -> elm_mlx.LanguageModel:
    """The built-in demo, whose words are of several tokens."""
    return elm_mlx.load(rows=4)


TEXT = "Once upon a time there was"


def free(lm: elm_mlx.LanguageModel, **options: Any) -> elm_mlx.Completion:
    return lm.generate(TEXT, LENGTH, **options)


def read(stream: elm_mlx.Stream) -> tuple[str, list[int], object]:
    """(the text of the pieces, their ids, why the last one ends)."""
    pieces = list(stream)
    assert {piece.finish_reason for piece in pieces[:-1]} <= {None}
    assert {piece.stop_reason for piece in pieces[:-1]} <= {None}
    return "".join(piece.text for piece in pieces), [piece.token for piece in pieces], pieces[-1].stop_reason


def test_any_part_of_an_answer_ends_it_wherever_its_tokens_are_cut(demo: elm_mlx.LanguageModel) -> None:
    whole, rng = free(demo, temperature=1.0, seed=3), random.Random(4)
    for _ in range(6):
        start = rng.randrange(len(whole.text))
        stop = whole.text[start : start + rng.randint(1, 9)]
        done = free(demo, temperature=1.0, seed=3, stop=[stop, "never there"])
        assert done.text == whole.text[: whole.text.index(stop)]
        assert (done.finish_reason, done.stop_reason) == ("stop", stop)
        assert done.tokens == whole.tokens[: len(done.tokens)]
        assert stop in demo.tokenizer.decode(done.tokens)
        assert stop not in demo.tokenizer.decode(done.tokens[:-1])
        assert done.stats.generated_tokens == len(done.tokens)


def test_an_answer_is_the_same_read_unread_in_a_batch_and_in_a_chat(demo: elm_mlx.LanguageModel) -> None:
    whole = free(demo).text
    stops = [whole[20:26], whole[40:44]]
    done = free(demo, stop=stops)
    stream = demo.stream(TEXT, LENGTH, stop=stops)
    assert read(stream) == (done.text, done.tokens, done.stop_reason)
    seen = stream.completion
    assert (seen.text, seen.tokens, seen.finish_reason, seen.stop_reason) == (done.text, done.tokens, "stop", stops[0])
    for other in demo.batch([TEXT] * 3, LENGTH, stop=tuple(stops)):
        assert (other.text, other.tokens, other.stop_reason) == (done.text, done.tokens, done.stop_reason)
    unread = demo.submit(TEXT, LENGTH, stop=stops)
    assert unread._handle.wait(None, 60)
    assert unread._handle.state.ids == len(done.tokens)


def test_rows_that_run_together_have_stop_strings_of_their_own(demo: elm_mlx.LanguageModel) -> None:
    whole = free(demo)
    asked = [whole.text[20:25], whole.text[45:50], None, whole.text[33:38]]
    streams = [demo.submit(TEXT, LENGTH, stop=stop) for stop in asked]
    cancelled = demo.submit(TEXT, LENGTH, stop="?" * 20)
    cancelled.cancel()
    for stop, stream in zip(asked, streams, strict=True):
        end = whole.text.index(stop) if stop else len(whole.text)
        assert stream.result().text == whole.text[:end]


def test_a_string_at_the_very_end_stops_the_answer_and_one_that_is_longer_does_not(demo: elm_mlx.LanguageModel) -> None:
    drawn: dict[str, Any] = {"temperature": 1.0, "seed": 3}
    whole = free(demo, **drawn)
    for stop, text, reason in [
        (whole.text[-8:], whole.text[:-8], "stop"),
        (whole.text, "", "stop"),
        (whole.text[-8:] + "and more", whole.text, "length"),
        (whole.text[:2], "", "stop"),
    ]:
        if stop in whole.text:
            assert whole.text.index(stop) == len(text)
        done = free(demo, stop=stop, **drawn)
        assert (done.text, done.finish_reason) == (text, reason)
        assert done.stop_reason == (stop if reason == "stop" else None)
        assert read(demo.stream(TEXT, LENGTH, stop=stop, **drawn))[0] == text


def test_an_answer_that_is_cancelled_unread_has_what_was_held_back_and_one_that_is_read_what_was_shown(
    demo: elm_mlx.LanguageModel,
) -> None:
    whole = free(demo).text
    stream = demo.stream(TEXT, LENGTH, stop=whole + "!")
    shown = [next(stream).text for _ in range(5)]
    stream.cancel()
    assert stream.completion.text == "".join(shown) == ""
    unread = demo.submit(TEXT, 2000 - len(TEXT), stop=whole + "!")
    while unread._handle.state.ids < 5:
        unread._handle.wait(unread._handle.state, 60)
    unread.cancel()
    with pytest.raises(Cancelled) as caught:
        unread.result(60)
    done = caught.value.completion
    assert done.text == demo.tokenizer.decode(done.tokens) != ""
    assert (done.finish_reason, done.stop_reason) == ("cancelled", None)


def test_a_stop_id_is_the_reason_where_it_ends_the_answer(openelm: Path, tmp_path: Path) -> None:
    ids = checkpoints.prompt(20)
    drawn = elm_mlx.load(openelm).generate(ids, 30).tokens
    last = next(token for i, token in enumerate(drawn) if i >= 3 and token not in drawn[:i])
    shutil.copytree(openelm, tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps({"eos_token_id": last}), encoding="utf-8")
    lm = elm_mlx.load(tmp_path / "m")
    stream = lm.stream(ids, 30, stop="never there")
    assert read(stream)[2] == lm.generate(ids, 30).stop_reason == last
    assert stream.completion.tokens == drawn[: drawn.index(last)]


def test_the_models_own_stop_strings_count_and_those_of_a_call_are_added(openelm: Path, tmp_path: Path) -> None:
    ids = checkpoints.prompt(20)
    text = elm_mlx.load(openelm).generate(ids, 30).text
    own, early = text[12:15], text[4:7]
    shutil.copytree(openelm, tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps({"stop_strings": own}), encoding="utf-8")
    lm = elm_mlx.load(tmp_path / "m")
    assert lm.stop_strings == (own,)
    assert "stop_strings" not in "".join(lm.notices)
    assert lm.generate(ids, 30).text == text[: text.index(own)]
    assert lm.generate(ids, 30, stop="never there").stop_reason == own
    assert lm.generate(ids, 30, stop=early).text == text[: min(text.index(own), text.index(early))]


def test_the_text_of_a_special_token_means_that_token_too(demo: elm_mlx.LanguageModel) -> None:
    begin = demo.tokenizer.control_ids["<s>"]
    request = demo.request(TEXT, 4, stop=["<s>", "x"])
    assert request.stop_ids == demo.stop_ids | {begin} != demo.stop_ids
    assert request.stopper
    assert demo.request(TEXT, 4, stop=[]).stopper is None


@pytest.mark.parametrize(
    ("stop", "why"),
    [
        ("", "empty"),
        (["a", ""], "empty"),
        (5, "of type int"),
        (b"a", "of type bytes"),
        (["a", 5], "of type int"),
        ({"a": 1}, "of type dict"),
        (["x"] * 17, "17 strings; it may have up to 16"),
        ("x" * 257, "257 characters; it may have up to 256"),
        ("a\ud800", "not valid text"),
    ],
)
def test_strings_without_a_meaning_are_refused_by_every_call(demo: elm_mlx.LanguageModel, stop: Any, why: str) -> None:
    for call in (demo.generate, demo.stream, demo.submit, demo.astream):
        with pytest.raises(InvalidRequest, match=why):
            call(TEXT, 4, stop=stop)
    with pytest.raises(InvalidRequest, match=why):
        demo.batch([], 4, stop=stop)


def test_without_stop_strings_the_engine_is_asked_nothing(demo: elm_mlx.LanguageModel) -> None:
    request = demo.request(TEXT, 4)
    assert (request.stopper, request.stop_ids) == (None, demo.stop_ids)
