"""generation_config.json: greedy unless it asks to sample, and what in it has no meaning is named and ignored."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from elm_mlx.config.generation import Generation, Sampling, read_generation
from elm_mlx.config.values import Values
from elm_mlx.errors import BadCheckpoint


def read(**raw: Any) -> Generation:
    return read_generation(Values(raw, "generation_config.json"))


def test_without_do_sample_a_model_is_greedy_whatever_else_is_said() -> None:
    assert read(temperature="hot", top_k=-1, top_p=9) == Generation(Sampling(), frozenset())
    assert read(do_sample=None, eos_token_id=[3, 5]) == Generation(Sampling(), frozenset({3, 5}))


def test_sampling_without_a_temperature_has_1_and_a_whole_number_written_as_a_float_is_one() -> None:
    assert read(do_sample=True, top_k=50.0) == Generation(Sampling(temperature=1.0, top_k=50), frozenset())


@pytest.mark.parametrize("temperature", [0, 0.0, 1e-9])
def test_sampling_at_temperature_0_is_greedy_and_keeps_the_filters_for_a_callers_temperature(
    temperature: float,
) -> None:
    found = read(do_sample=True, temperature=temperature, top_p=0.9)
    assert found.sampling == Sampling(temperature=temperature, top_p=0.9)
    assert found.sampling.is_greedy
    expected = f"generation_config.json asks for sampling at temperature {temperature:g}, which is greedy decoding."
    assert found.notices == (expected,)


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": 10**400}, "temperature is 1000"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": "50"}, "top_k is '50'"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": True}, "top_p is True"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": [0.1]}, "min_p is [0.1]"),
    ],
)
def test_a_value_without_a_meaning_is_left_aside_alone_and_named(raw: dict[str, Any], named: str) -> None:
    others = {"temperature": 0.6, "top_k": 40, "top_p": 0.9, "min_p": 0.1}
    found = read(do_sample=True, **(others | raw))
    kept = {name: value for name, value in others.items() if name not in raw}
    assert found.sampling == Sampling(**({"temperature": 1.0} | kept))
    assert len(found.notices) == 1
    assert found.notices[0].startswith(f"generation_config.json: {named}")
    assert len(found.notices[0]) < 300


def test_a_do_sample_that_is_no_flag_is_left_aside() -> None:
    found = read(do_sample="yes", temperature=0.5)
    assert found.sampling == Sampling()
    assert found.notices[0].startswith("generation_config.json: do_sample is 'yes'")


@pytest.mark.parametrize("sampling", [{}, {"do_sample": False}, {"do_sample": True, "temperature": 0.6}])
def test_what_elm_mlx_does_not_have_is_named(sampling: dict[str, Any]) -> None:
    found = read(**sampling, encoder_repetition_penalty=1.05, num_beams=1, bad_words_ids=[[3, 4]], typical_p=None,
                 min_length=0, no_repeat_ngram_size=False, suppress_tokens=[], sequence_bias=[[[7], 2.0]])  # fmt: skip
    assert found.sampling == read(**sampling).sampling
    expected = ("generation_config.json asks for encoder_repetition_penalty, sequence_bias, bad_words_ids of several "
                "ids, which elm-mlx does not have.")  # fmt: skip
    assert found.notices == (expected,)


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 0.6}])
def test_a_repetition_penalty_and_banned_ids_hold_also_without_sampling_as_in_transformers(
    sampling: dict[str, Any],
) -> None:
    found = read(**sampling, repetition_penalty=1.05, suppress_tokens=[9, 4], bad_words_ids=[[3], [2]], eos_token_id=2)
    assert found.sampling == replace(read(**sampling).sampling, repetition_penalty=1.05, banned=(3, 4, 9))
    assert not found.notices


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"suppress_tokens": ["a"]}, "suppress_tokens is ['a']"),
        ({"bad_words_ids": [3]}, "bad_words_ids is [3]"),
    ],
)
def test_penalties_and_bans_without_a_meaning_are_left_aside_and_named(raw: dict[str, Any], named: str) -> None:
    found = read(**raw)
    assert found.sampling == Sampling()
    assert len(found.notices) == 1
    assert found.notices[0].startswith(f"generation_config.json: {named}")


def test_biases_and_bans_have_one_form() -> None:
    one = Sampling(logit_bias=((5, 1), (2, -math.inf), (3, 0.5)), banned=(9, 9, 1))
    assert one == Sampling(logit_bias=((3, 0.5), (5, 1.0)), banned=[1, 2, 9])  # type: ignore[arg-type]
    assert len({one, Sampling(logit_bias=((3, 0.5), (5, 1.0)), banned=(1, 2, 9))}) == 1


def test_greedy_decoding_has_no_filters_in_effect_and_keeps_its_penalties() -> None:
    assert Sampling(0.0, top_k=3, top_p=0.5, min_p=0.1, banned=(4,)).in_effect == Sampling(banned=(4,))
    assert Sampling(1.0, top_k=3).in_effect == Sampling(1.0, top_k=3)


def test_stop_ids_that_are_none_are_refused() -> None:
    with pytest.raises(BadCheckpoint, match=r"generation_config\.json: eos_token_id"):
        read(eos_token_id="</s>")


def test_stop_strings_are_read_and_those_without_a_meaning_left_aside() -> None:
    assert read(stop_strings=["\n\n", "User:"]) == Generation(Sampling(), frozenset(), (), ("\n\n", "User:"))
    assert read(do_sample=True, stop_strings="###").stop_strings == ("###",)
    for nothing in (None, []):
        assert read(stop_strings=nothing) == Generation(Sampling(), frozenset())
    for wrong in ("", 5, ["a", 1], ["x"] * 17, ["x" * 257], ["\ud800"]):
        found = read(stop_strings=wrong)
        assert found.stop_strings == ()
        assert len(found.notices) == 1
        assert found.notices[0].startswith("generation_config.json: stop_strings: ")
