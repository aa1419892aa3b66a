"""A file of answers goes on where a killed process left it, and is never another model's."""

from __future__ import annotations

import json

import pytest

from elm_mlx.errors import ElmError, InvalidRequest, TargetExists
from elm_mlx.evaluate.remembered import Remembered, key_of

MADE = {"model": "a", "window": None}


def kept(place, made=MADE):
    with Remembered(place, made) as remembered:
        return dict(remembered.answers)


def test_a_file_cut_at_any_byte_keeps_the_answers_before(tmp_path):
    place = tmp_path / "answers"
    answers = {key_of("loglikelihood", "a", text): [-1.5, True] for text in "xyz"} | {"text": "né\n", "sum": -3.25}
    with Remembered(place, MADE) as remembered:
        for key, answer in answers.items():
            remembered.add(key, answer)
    whole = place.read_bytes()
    assert kept(place) == answers
    for size in {*range(0, len(whole), 7), *range(len(whole) - 60, len(whole))}:
        place.write_bytes(whole[:size])
        found = kept(place)
        assert list(found.items()) == list(answers.items())[: len(found)]
        assert len(found) == max(0, whole[:size].count(b"\n") - 1)
        assert place.read_bytes().endswith(b"\n")


def test_answers_of_another_model_or_other_settings_are_refused(tmp_path):
    place = tmp_path / "answers"
    kept(place)
    for made in (MADE | {"model": "b"}, MADE | {"window": 16}, {"model": "a"} | {"more": 1}):
        with pytest.raises(TargetExists, match="computed with another"):
            kept(place, made)
    assert kept(place) == {}


@pytest.mark.parametrize("content", ["{}\n", "my notes\n", "my notes", '{"form": "elm-mlx answers 9"}\n', "[" * 10**5])
def test_a_file_of_something_else_is_not_touched(tmp_path, content):
    place = tmp_path / "notes"
    place.write_text(content)
    with pytest.raises(TargetExists, match="line 1"):
        kept(place)
    assert place.read_text() == content


@pytest.mark.parametrize("line", [{"key": 1, "answer": 1.0}, {"key": "a", "answer": {}}, {"key": "a"}, 3,
                                  {"key": "a", "answer": [1, 2]}, {"key": "a", "answer": [[], True]}])  # fmt: skip
def test_a_line_that_is_no_answer_is_refused(tmp_path, line):
    place = tmp_path / "answers"
    kept(place)
    place.write_text(place.read_text() + json.dumps(line) + "\n")
    with pytest.raises(TargetExists, match="line 2"):
        kept(place)


def test_two_processes_do_not_write_one_file(tmp_path):
    with Remembered(tmp_path / "answers", MADE), pytest.raises(InvalidRequest, match="Another job") as caught:
        kept(tmp_path / "answers")
    assert caught.value.advice == "Name another file as {answers}."


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ElmError, match="nowhere"):
        kept(tmp_path / "nowhere" / "answers")
