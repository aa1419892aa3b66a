"""Top-p by searching keeps bit for bit what sorting keeps, whatever the logits are and however rows stand together."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.config.generation import Sampling
from elm_mlx.engine import top_p
from elm_mlx.engine.samplers import Samplers
from elm_mlx.engine.sampling import Sampler
from elm_mlx.engine.top_p import SORTED_UP_TO, by_searching, by_sorting, keep_top_p

SEARCHES = {"1 bit": by_searching, "2 bits": partial(by_searching, bits=2), "5 bits": partial(by_searching, bits=5)}


def kept(found: mx.array) -> list[list[bool]]:
    listed: list[list[bool]] = np.isfinite(np.array(found)).tolist()
    return listed


@pytest.mark.parametrize("count", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_searching_keeps_what_sorting_keeps(count: int) -> None:
    @settings(max_examples=count)
    @given(
        st.lists(st.floats(-100, 30, width=16), min_size=1, max_size=40),  # of 16 bits, so that some are equal
        st.floats(0, 1, exclude_min=True),
    )
    def check(values: list[float], share: float) -> None:
        logits = mx.array([values])
        expected = kept(by_sorting(logits, share))
        found = {name: kept(search(logits, share)) for name, search in SEARCHES.items()}
        assert found == dict.fromkeys(SEARCHES, expected)

    check()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999, 0.9999999])
@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 30.0])
def test_searching_keeps_what_sorting_keeps_of_a_large_vocabulary(share: float, spread: float) -> None:
    logits = spread * mx.random.normal((2, 50_000), key=mx.random.key(1))
    assert kept(by_searching(logits, share)) == kept(by_sorting(logits, share))


@pytest.mark.parametrize("way", [by_sorting, by_searching])
def test_the_fewest_likeliest_reach_the_share_and_equals_stay_together(way: top_p.Callable[..., mx.array]) -> None:
    logits = mx.array(np.log([[0.1, 0.3, 0.2, 0.2, 0.2]]))
    assert kept(way(logits, 0.3)) == [[False, True, False, False, False]]
    assert kept(way(logits, 0.31)) == [[False, True, True, True, True]]
    assert kept(way(logits, 0.91)) == [[True] * 5]


def test_a_large_vocabulary_is_drawn_from_alone_as_in_a_batch() -> None:
    logits = 3 * mx.random.normal((4, SORTED_UP_TO + 1), key=mx.random.key(3))
    sampling = Sampling(1.0, top_p=0.8)
    together = Samplers([Sampler(sampling, seed) for seed in range(4)])(logits).tolist()
    alone = [int(Sampler(sampling, seed)(logits[seed : seed + 1]).item()) for seed in range(4)]
    assert together == alone


def test_draws_from_a_large_vocabulary_have_its_shares() -> None:
    """Chi-square over the six likeliest, of which top-p keeps four; the rest is as good as impossible."""
    shares = np.array([0.35, 0.25, 0.2, 0.1, 0.06, 0.04])
    logits = np.full(SORTED_UP_TO + 1, -40.0, np.float32)
    places = np.array([5, 900, 901, 7000, 12000, SORTED_UP_TO])
    logits[places] = np.log(shares)
    filtered = keep_top_p(mx.array(logits[None]), 0.85)
    count = 4000
    found = mx.random.categorical(
        mx.broadcast_to(filtered, (count, len(logits)))[:, places.tolist()], key=mx.random.key(8)
    )
    assert kept(filtered[:, places.tolist()]) == [[True] * 4 + [False] * 2]
    expected = count * shares[:4] / shares[:4].sum()
    drawn = np.bincount(np.array(found), minlength=4)
    assert ((drawn[:4] - expected) ** 2 / expected).sum() < 16.3  # exceeded by chance once in a thousand


def test_a_vocabulary_that_is_searched_is_the_one_that_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_p, "by_sorting", lambda *_: "sorted")
    monkeypatch.setattr(top_p, "by_searching", lambda *_: "searched")
    assert keep_top_p(mx.zeros((1, SORTED_UP_TO)), 0.9) == "sorted"
    assert keep_top_p(mx.zeros((1, SORTED_UP_TO + 1)), 0.9) == "searched"
