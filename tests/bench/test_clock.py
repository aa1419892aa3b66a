"""What is measured and what is timed: tests by llama-bench's names, and a clock that runs for nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.bench.cases import Case, cases, check_context
from elm_mlx.bench.clock import sample
from elm_mlx.bench.ours import Ours
from elm_mlx.errors import InvalidRequest, PromptTooLong


class Clockwork:
    """A program whose every id takes a second, and whose settling takes a thousand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def make_cache(self, positions: int) -> list[int]:
        self.now += 100
        return []

    def read(self, ids: list[int], cache: list[int]) -> None:
        self.now += len(ids)
        cache += ids

    def decode(self, prompt: list[int], tokens: int) -> Iterator[int]:
        self.now += len(prompt)
        for token in range(tokens):
            self.now += 1
            yield token

    def settle(self) -> None:
        self.now += 1000


@pytest.mark.parametrize(
    ("case", "name", "seconds"),
    [
        (Case("pp", 512), "pp512", 512),
        (Case("pp", 4, depth=8), "pp4 @ d8", 4),
        (Case("tg", 128), "tg128", 128),
        (Case("tg", 5, depth=2048), "tg5 @ d2048", 5),
        (Case("ttft", 16), "ttft16", 17),  # the prompt, and the first token
    ],
)
def test_the_clock_runs_for_the_test_alone(
    monkeypatch: pytest.MonkeyPatch, case: Case, name: str, seconds: int
) -> None:
    program: Any = Clockwork(monkeypatch)
    assert case.name == name
    assert sample(program, case, case.token_ids(512)).seconds == seconds
    assert program.now > 1000  # it was waited for


def test_cases_are_every_count_at_every_depth() -> None:
    names = [case.name for case in cases([512, 16], [128], [0, 2048])]
    assert names == ["ttft16", "pp512", "pp16", "tg128", "pp512 @ d2048", "pp16 @ d2048", "tg128 @ d2048"]
    assert [case.name for case in cases([0], [8, 8], [0])] == ["ttft16", "tg8"]


@pytest.mark.parametrize("counts", [([0], [0], [0]), ([512], [128], []), ([-1], [8], [0]), ([8], [8], [-2])], ids=str)
def test_what_cannot_be_measured_is_refused(counts: tuple[list[int], ...]) -> None:
    with pytest.raises(InvalidRequest):
        cases(*counts)


@pytest.mark.parametrize("kind", ["pp", "tg", "ttft"])
def test_a_test_fills_the_context_and_never_overfills_it(openelm: Path, kind: str) -> None:
    lm = elm_mlx.load(openelm)
    whole = next(Case(kind, n, 500) for n in range(13) if Case(kind, n, 500).positions == 512)
    check_context([whole], lm.config)
    assert sample(Ours(lm), whole, whole.token_ids(512)).seconds > 0
    with pytest.raises(PromptTooLong, match=rf"{kind}{whole.tokens + 1} @ d500 takes 513 positions, and .* 512"):
        check_context([whole, Case(kind, whole.tokens + 1, 500)], lm.config)


def test_ids_are_the_models_own_and_always_the_same() -> None:
    case = Case("tg", 300, depth=20)
    ids = case.token_ids(50)
    assert ids == case.token_ids(50)
    assert (len(ids), set(ids) <= set(range(50))) == (20, True)
    assert len(set(ids)) > 10


def test_ours_is_what_a_request_runs(lm: elm_mlx.LanguageModel) -> None:
    prompt = checkpoints.prompt(20)
    done, ids = lm.generate(prompt, 12, temperature=0), list(Ours(lm).decode(prompt, 12))
    assert len(ids) == 12  # where a request may stop
    assert ids[: len(done.tokens)] == done.tokens


def test_reading_at_a_depth_continues_what_is_there(openelm: Path) -> None:
    ours = Ours(lm := elm_mlx.load(openelm))
    cache = ours.make_cache(30)
    ours.read(checkpoints.prompt(20), cache)
    ours.read(checkpoints.prompt(10), cache)
    assert [layer.offset for layer in cache] == [30] * lm.config.num_layers
