"""The clock for requests that are answered together: when they come, what is counted, and by whom they are answered."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.bench.batch import answer
from elm_mlx.bench.cases import Together, check_context, together
from elm_mlx.bench.loads import Arrival, Load
from elm_mlx.bench.ours import Ours
from elm_mlx.bench.peer import Peer
from elm_mlx.convert import convert
from elm_mlx.errors import InvalidRequest, PromptTooLong


class Clockwork:
    """A session whose every step takes a second, in which each of the first `rows` requests gets a token; closing takes
    a thousand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
        self.now, self.rows, self.closed = 0.0, rows, False
        self.left: dict[int, int] = {}
        self.came: list[float] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "process_time", lambda: 2 * self.now)

    def add(self, prompt: list[int], tokens: int) -> None:
        self.left[len(self.came)] = tokens
        self.came.append(self.now)

    def step(self) -> list[int]:
        self.now += 1
        numbers = [number for number, tokens in self.left.items() if tokens][: self.rows]
        for number in numbers:
            self.left[number] -= 1
        return numbers

    def close(self) -> None:
        self.now += 1000
        self.closed = True


def test_the_clock_stops_when_all_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = Clockwork(monkeypatch, rows=2)
    run = answer(session, Load([Arrival([1], 3), Arrival([1], 5)], rows=2))
    assert (run.begun.seconds, run.begun.cpu_seconds, run.begun.tokens) == (1, 2, 2)
    assert (run.ended.seconds, run.ended.tokens, run.seconds, run.cpu_seconds, run.tokens) == (5, 8, 4, 8, 6)
    assert session.closed


def test_what_is_counted_begins_once_every_request_has_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = Clockwork(monkeypatch, rows=1)
    run = answer(session, Load([Arrival([1], 9), Arrival([1], 9)], rows=1, counted=4))
    assert (run.begun.tokens, run.tokens) == (10, 4)
    assert sum(session.left.values()) == 4  # dropped


def test_requests_come_by_what_was_answered_and_not_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = Clockwork(monkeypatch, rows=4)
    run = answer(session, Load([Arrival([1], 4), Arrival([1], 2, after=2), Arrival([1], 1, after=3)], rows=4))
    assert session.came == [0, 2, 3]
    assert run.ended.tokens == 7


def test_nobody_waits_for_tokens_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = Clockwork(monkeypatch, rows=4)
    assert answer(session, Load([Arrival([1], 4), Arrival([1], 2, after=99)], rows=4)).ended.tokens == 6
    assert session.came == [0, 4]


def test_a_test_of_requests_names_its_numbers_and_fits_what_it_says(openelm: Path) -> None:
    test = Together(40, 8, 3)
    assert test.name == "pp40 tg8 b3"
    load = test.load(512)
    assert load == test.load(512)
    assert [len(arrival.prompt) for arrival in load.arrivals] == [40] * 3
    assert len({tuple(arrival.prompt) for arrival in load.arrivals}) == 3
    assert (load.rows, load.counted) == (3, 24)
    lm = elm_mlx.load(openelm)
    run = answer(Ours(lm).session(3), load)
    assert run.tokens == 24
    long = Together(512 - test.answer, 8, 3)
    with pytest.raises(PromptTooLong, match=r"takes \d+ positions"):
        check_context([test, long], lm.config)


def test_tests_of_requests_are_all_numbers_with_all() -> None:
    assert [test.name for test in together([4, 8], [2], [1, 4, 4])] == [
        "pp4 tg2 b1", "pp4 tg2 b4", "pp8 tg2 b1", "pp8 tg2 b4"]  # fmt: skip
    for counts in (([0], [1], [1]), ([1], [0], [1]), ([1], [1], [0]), ([1], [1], [])):
        with pytest.raises(InvalidRequest, match="a prompt and an answer"):
            together(*counts)


@pytest.mark.slow
def test_both_programs_answer_every_request_to_its_end(openelm: Path, tmp_path: Path) -> None:
    directory = convert(openelm, tmp_path / "tiny", dtype="float32").output
    arrivals = [Arrival(checkpoints.prompt(4 + 3 * n), 2 + n, after=2 * n) for n in range(6)]
    load, tokens = Load(arrivals, rows=2), sum(arrival.tokens for arrival in arrivals)
    session = Ours(elm_mlx.load(directory)).session(2)
    answered: list[int] = []
    step = session.step
    session.step = lambda: answered.extend(news := step()) or news  # type: ignore[method-assign, func-returns-value]
    assert answer(session, load).ended.tokens == tokens
    assert Counter(answered) == {number: arrival.tokens for number, arrival in enumerate(arrivals)}
    with Peer(directory) as peer:
        assert peer.run(load).ended.tokens == tokens


def test_a_step_that_fails_is_not_measured(lm: elm_mlx.LanguageModel) -> None:
    session = Ours(lm).session(1)
    session.add([1, 2, 3], 4)
    next(iter(session.told)).error = ArithmeticError("gone")
    with pytest.raises(ArithmeticError):
        session.step()
