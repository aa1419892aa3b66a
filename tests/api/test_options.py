"""The options of a call: declared once, the same for generate, stream and chat, and refused where they mean nothing."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.api.options import Options, sampling_for
from elm_mlx.config.generation import Sampling
from elm_mlx.errors import InvalidRequest

one_family = pytest.mark.parametrize("source", ["openelm"], indirect=True)


@one_family
@pytest.mark.parametrize("call", ["generate", "stream", "submit", "chat", "agenerate", "astream", "batch"])
def test_every_call_takes_the_options_by_name_alone(lm: elm_mlx.LanguageModel, call: str) -> None:
    parameters = inspect.signature(getattr(lm, call)).parameters.values()
    assert [p.name for p in parameters if p.kind is p.VAR_KEYWORD] == ["options"]
    assert not set(Options.__annotations__) & {parameter.name for parameter in parameters}
    with pytest.raises(TypeError):
        getattr(lm, call)("Hi", 4, 0.5)


@one_family
def test_generate_stream_and_chat_choose_alike(lm: elm_mlx.LanguageModel) -> None:
    ids = checkpoints.prompt(12)
    options: dict[str, Any] = {"temperature": 0.9, "top_p": 0.8, "top_k": 50, "min_p": 0.01, "seed": 3}
    pieces = list(lm.stream(ids, 8, **options))
    assert [piece.token for piece in pieces if piece.finish_reason != "stop"] == lm.generate(ids, 8, **options).tokens


@one_family
def test_an_option_that_does_not_exist_is_refused_with_the_nearest(lm: elm_mlx.LanguageModel) -> None:
    with pytest.raises(TypeError, match=r"no option 'temprature'; did you mean 'temperature'\?"):
        lm.generate("Hi", temprature=0.5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"the options are temperature, top_p, top_k, min_p, .*seed, reuse"):
        lm.stream("Hi", xyz=1)  # type: ignore[call-arg]


def test_none_and_a_missing_option_mean_the_models_own() -> None:
    own = Sampling(temperature=0.6, top_p=0.9)
    assert sampling_for(own, {}) == sampling_for(own, {"temperature": None, "seed": 7}) == own
    assert sampling_for(own, {"top_k": 5}) == Sampling(temperature=0.6, top_p=0.9, top_k=5)


def test_plain_leaves_the_models_own_aside_and_what_is_given_still_counts() -> None:
    own = Sampling(temperature=0.6, top_p=0.9, repetition_penalty=1.2)
    assert sampling_for(own, {"plain": True}) == Sampling()
    assert sampling_for(own, {"plain": True, "temperature": 0.7}) == Sampling(temperature=0.7)
    assert sampling_for(own, {"plain": False}) == sampling_for(own, {"plain": None}) == own
    with pytest.raises(InvalidRequest, match="plain is 1; it must be true or false"):
        sampling_for(own, {"plain": 1})  # type: ignore[typeddict-item]


def test_a_filter_beside_plain_is_refused_and_the_advice_names_both() -> None:
    with pytest.raises(InvalidRequest, match="plain decoding is greedy") as refused:
        sampling_for(Sampling(temperature=0.6), {"plain": True, "top_p": 0.9})
    assert refused.value.advice == "Give a {temperature}, or leave {top_p} out, or {plain}."


def test_a_filter_of_a_greedy_model_is_refused_unless_a_temperature_is_given() -> None:
    with pytest.raises(InvalidRequest, match="top_k would change nothing"):
        sampling_for(Sampling(), {"top_k": 5})
    assert sampling_for(Sampling(), {"top_k": 5, "temperature": 0.5}).top_k == 5


def test_a_filter_of_the_file_is_never_the_callers_to_mend() -> None:
    own = Sampling(temperature=0.0, top_p=0.9)  # as a file says that asks for sampling at temperature 0
    assert sampling_for(own, {}) == own
    assert sampling_for(own, {"temperature": 0.7}) == Sampling(temperature=0.7, top_p=0.9)
    with pytest.raises(InvalidRequest, match=r"^top_k would change nothing"):
        sampling_for(own, {"top_k": 5})


@one_family
def test_stats_print_themselves(lm: elm_mlx.LanguageModel) -> None:
    stats = lm.generate(checkpoints.prompt(5), 4).stats
    text = str(stats)
    assert text.startswith(f"5 + {stats.generated_tokens} tokens: the first after ")
    assert text.endswith(" MB at most")
    assert str(replace(stats, cached_tokens=3)).startswith("5 (3 cached) + ")
    nothing_came = replace(stats, generated_tokens=0, time_to_first_token_s=0.0, decode_tokens_per_s=None)
    assert str(nothing_came).startswith("5 + 0 tokens; ")
