"""Several completions of a prompt, and log-probabilities, as a caller gets them."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.errors import InvalidRequest, NotEnoughMemory
from elm_mlx.seeds import seed_of

one_family = pytest.mark.parametrize("source", ["openelm"], indirect=True)
SAMPLED: dict[str, Any] = {"temperature": 1.0, "repetition_penalty": 1.1}


@one_family
@pytest.mark.parametrize("reuse", [True, False])
def test_completions_are_those_of_their_seeds_and_share_their_prompt(lm: elm_mlx.LanguageModel, reuse: bool) -> None:
    prompt = checkpoints.prompt(40, seed=9 + reuse)
    together = lm.completions(prompt, 4, 12, seed=5, reuse=reuse, **SAMPLED)
    alone = [lm.generate(prompt, 12, seed=seed_of(5, i), reuse=False, **SAMPLED) for i in range(4)]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert len({tuple(one.tokens) for one in together}) > 1
    assert [one.stats.cached_tokens for one in together] == [0, 39, 39, 39]


@one_family
def test_one_completion_has_the_seed_itself(lm: elm_mlx.LanguageModel) -> None:
    prompt = checkpoints.prompt(20)
    (one,) = lm.completions(prompt, 1, 8, seed=5, **SAMPLED)
    assert one.tokens == lm.generate(prompt, 8, seed=5, **SAMPLED).tokens


@one_family
def test_completions_without_a_seed_differ(lm: elm_mlx.LanguageModel) -> None:
    assert len({tuple(one.tokens) for one in lm.completions(checkpoints.prompt(20), 3, 12, **SAMPLED)}) == 3


def test_a_seed_for_a_part_is_the_same_for_ever() -> None:
    assert seed_of(5, 0) == 2596014066693947540
    assert seed_of(5, "0") != seed_of(5, 0)


@one_family
@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_number_of_completions_without_a_meaning_is_refused(lm: elm_mlx.LanguageModel, n: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"\bn is"):
        lm.completions("Hi", n)


@one_family
def test_an_error_of_one_completion_cancels_the_others(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []
    begin = lm._begin

    def begin_two(request: Any, **options: Any) -> Any:
        if len(begun) == 2:
            raise NotEnoughMemory("There is no memory for the third.")
        begun.append(begin(request, **options))
        return begun[-1]

    monkeypatch.setattr(lm, "_begin", begin_two)
    with pytest.raises(NotEnoughMemory):
        lm.completions(checkpoints.prompt(20), 3, None)
    assert [stream.completion.finish_reason for stream in begun] == ["cancelled"] * 2


@one_family
def test_log_probabilities_come_with_pieces_and_completions(lm: elm_mlx.LanguageModel) -> None:
    prompt = checkpoints.prompt(20)
    done = lm.generate(prompt, 6, logprobs=3)
    assert done.logprobs is not None
    assert len(done.logprobs) == len(done.tokens) == 6
    for token, entry in zip(done.tokens, done.logprobs, strict=True):
        assert entry.alternatives[0] == (token, entry.logprob)  # greedy: the likeliest is the one
        assert len(entry.alternatives) == 3
    stream = lm.stream(prompt, 6, logprobs=3)
    assert [piece.logprob for piece in stream] == done.logprobs == stream.completion.logprobs
    assert lm.generate(prompt, 2).logprobs is None
    assert [piece.logprob for piece in lm.stream(prompt, 2)] == [None, None]


@one_family
def test_the_entry_of_an_id_that_ends_the_answer_is_left_out_with_it(lm: elm_mlx.LanguageModel) -> None:
    stop = min(lm.stop_ids)
    done = lm.generate(checkpoints.prompt(20), 5, logprobs=0, logit_bias={stop: 1e4})
    assert (done.finish_reason, done.tokens, done.logprobs) == ("stop", [], [])


@one_family
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"logprobs": 21}, "logprobs is 21"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"logprobs": True}, "logprobs is True"),
        ({"logit_bias": {10**6: 1}}, "logit_bias names the id 1000000"),
        ({"logit_bias": {0: "a"}}, "A bias is 'a'"),
        ({"logit_bias": [1, 2]}, "logit_bias is"),
        ({"banned_ids": [10**6]}, "banned_ids names the id 1000000"),
        ({"banned_ids": 5}, "banned_ids is 5"),
        ({"banned_ids": range(checkpoints.VOCAB)}, "All ids of the vocabulary are banned"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
    ],
    ids=str,
)
def test_options_without_a_meaning_are_refused_before_anything_is_queued(
    lm: elm_mlx.LanguageModel, options: dict[str, Any], named: str
) -> None:
    for call in (lm.submit, lambda prompt, **more: lm.batch([prompt], **more)):
        with pytest.raises(InvalidRequest, match=named):
            call("Hi", **options)


@one_family
def test_banned_ids_are_never_chosen_and_biases_choose(lm: elm_mlx.LanguageModel) -> None:
    prompt = checkpoints.prompt(20)
    free = lm.generate(prompt, 8).tokens
    assert not set(free[:1]) & set(lm.generate(prompt, 8, banned_ids=free[:1]).tokens)
    assert lm.generate(prompt, 8, logit_bias={77: 1e4}).tokens == [77] * 8
