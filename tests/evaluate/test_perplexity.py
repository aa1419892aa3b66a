"""A text's bits are the sum over its ids, each scored once, whatever the windows are."""

from __future__ import annotations

import math
from itertools import chain

import mlx.core as mx
import numpy as np
import pytest
from helpers.dense import dense_pass
from hypothesis import given
from hypothesis import strategies as st

import elm_mlx
from elm_mlx.api import scores
from elm_mlx.api.cache_kind import cache_kind
from elm_mlx.device.execution import Execution
from elm_mlx.engine.prefill import rounds
from elm_mlx.errors import InvalidRequest, NotFinite, PromptTooLong
from elm_mlx.evaluate import perplexity
from elm_mlx.evaluate.perplexity import standard_error
from elm_mlx.evaluate.windows import windows

TEXT = "Once upon a time, in Drywell, there lived a curious deer. It was \u00fcber-happy. " * 3


@pytest.fixture(scope="module")
def demo():
    return elm_mlx.load()


def plain_losses(lm, ids):
    """Minus the log-probability of each id but the first, in nats, from the model's logits."""
    logits = lm.logits(ids)
    logs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    return [-logs[place, following] for place, following in enumerate(ids[1:])]


@given(st.integers(1, 60), st.integers(0, 1), st.integers(2, 20), st.data())
def test_every_id_is_predicted_once_with_the_rest_of_a_window_before_it(count, bos, length, data):
    stride = data.draw(st.integers(1, length - 1))
    ids = list(range(1, count + 1))
    found = list(windows(ids, [0] * bos, length, stride))
    assert list(chain.from_iterable(one.ids[len(one.ids) - one.scored :] for one in found)) == ids[1 - bos :]
    assert all(len(one.ids) <= length for one in found)
    assert all(len(one.ids) - one.scored >= length - stride for one in found[1:-1])


def test_bits_are_those_of_the_models_own_logits(demo):
    ids = demo.tokenizer.encode(TEXT)
    losses = plain_losses(demo, ids)
    done = perplexity(demo, [TEXT])
    assert done.tokens == len(losses) == len(ids) - 1
    assert done.bytes == len(TEXT.encode())
    assert done.bits_per_token == pytest.approx(np.mean(losses) / math.log(2), rel=1e-4)
    assert done.bits_per_byte == pytest.approx(np.sum(losses) / math.log(2) / len(TEXT.encode()), rel=1e-4)
    assert done.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-3)


def test_windows_give_each_text_its_own_beginning_and_overlap(demo):
    ids, (bos,) = demo.tokenizer.encode_text(TEXT), demo.tokenizer.encode("")
    one = perplexity(demo, [TEXT, TEXT], window=80, stride=40)
    expected = plain_losses(demo, [bos, *ids[:79]])
    for start in range(40, len(ids) - 39, 40):
        if start + 39 >= len(ids):
            break
        window = [bos, *ids[start : start + 79]]
        expected += plain_losses(demo, window)[79 - 40 :] if len(window) == 80 else plain_losses(demo, window)[39:]
    assert one.tokens == 2 * len(ids)
    assert one.bits_per_token * len(ids) == pytest.approx(sum(expected) / math.log(2), rel=1e-4)


def test_windows_at_most_counts_the_bytes_of_what_was_scored(demo):
    done = perplexity(demo, [TEXT], window=33, stride=32, windows_at_most=1)
    assert done.tokens == 32
    assert done.bytes == len(demo.tokenizer.decode(demo.tokenizer.encode_text(TEXT)[:32]).encode())


def test_a_model_beside_itself_diverges_by_nothing(demo):
    done = perplexity(demo, [TEXT], against=demo)
    assert done.kl_divergence == 0
    assert done.same_top == 1
    assert done.other_bits_per_token == pytest.approx(done.bits_per_token)


def test_divergence_is_that_of_the_two_predictions(lm, demo, tmp_path):
    ids = lm.tokenizer.encode(TEXT)[:50]
    found = lm.scores(ids, against=lm)
    assert np.all(found.divergences == 0)
    logits = lm.logits(ids)
    logs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))[:-1]
    assert found.losses == pytest.approx(-logs[np.arange(len(ids) - 1), ids[1:]], abs=1e-4)


@pytest.mark.parametrize("options", [{"kv_bits": 8}, {"cache_window": 16}])
def test_caches_of_other_kinds_are_measured_beside_plain_ones(demo, options):
    text = TEXT[:160]
    done = perplexity(demo, [text], against=demo, **options)
    ids = demo.tokenizer.encode(text)
    kind = cache_kind({"kv_bits": options.get("kv_bits"), "window": options.get("cache_window")}, 512)
    logits = dense_pass(demo, ids, kind)
    logs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    assert done.bits_per_token == pytest.approx(-logs[np.arange(len(ids) - 1), ids[1:]].mean() / math.log(2), rel=1e-2)
    assert done.kl_divergence > 0
    assert done.other_bits_per_token == pytest.approx(perplexity(demo, [text]).bits_per_token)


def test_a_text_is_scored_in_chunks_as_at_once(lm, monkeypatch):
    ids = lm.tokenizer.encode(TEXT)[:50]
    whole = lm.scores(ids).losses
    longest = []
    monkeypatch.setattr(scores, "rounds", lambda length, execution: rounds(length, Execution(chunk=7)))
    monkeypatch.setattr(type(lm.model), "hidden", watched(type(lm.model).hidden, longest))
    assert lm.scores(ids).losses == pytest.approx(whole, abs=1e-4)
    assert max(longest) == 7


def watched(hidden, lengths):
    """`hidden` of a model, which notes how many ids each call has."""

    def noting(self, ids, cache=None):
        lengths.append(ids.shape[1])
        return hidden(self, ids, cache)

    return noting


def test_logits_that_are_no_numbers_are_no_figure(lm, monkeypatch):
    head = type(lm.model).head
    monkeypatch.setattr(type(lm.model), "head", lambda self, states: head(self, states) * math.nan)
    with pytest.raises(NotFinite, match="this text"):
        perplexity(lm, [TEXT])


def test_scores_beside_a_model_with_other_ids_are_refused(demo, lm):
    with pytest.raises(InvalidRequest, match="different vocabularies"):
        lm.scores([5, 6, 7], against=demo)


def test_sizes_and_pairs_that_mean_nothing_are_refused(demo, lm):
    for sizes in ({"window": 1}, {"window": 10**6}, {"stride": 0}, {"window": 10, "stride": 10}):
        with pytest.raises(InvalidRequest, match="must be"):
            perplexity(demo, [TEXT], **sizes)
    with pytest.raises(InvalidRequest, match="no token"):
        perplexity(demo, [""])
    with pytest.raises(InvalidRequest, match="bits per byte"):
        perplexity(demo, [TEXT], against=lm)
    with pytest.raises(PromptTooLong):
        demo.scores([1] * (demo.config.context_length + 1))


def test_the_error_is_that_of_a_ratio_of_sums():
    rng = np.random.default_rng(0)
    means = [np.concatenate(rows := [rng.normal(3, 1, 50) for _ in range(40)]).mean() for _ in range(300)]
    assert standard_error(rows) == pytest.approx(np.std(means) / math.log(2), rel=0.35)


@pytest.mark.slow
def test_a_quantized_models_divergence_is_what_verify_finds(openelm, tmp_path):
    from elm_mlx.convert import convert

    text = TEXT * 10
    convert(openelm, tmp_path / "whole", dtype="float32")
    convert(openelm, tmp_path / "four", bits=4, group_size=32, dtype="float32")
    with elm_mlx.load(tmp_path / "whole") as whole, elm_mlx.load(tmp_path / "four") as four:
        done = perplexity(four, [text], against=whole)
        ids = four.tokenizer.encode(text)[:60]
        here, there = (np.array(m.logits(ids), np.float64) for m in (four, whole))
    q, p = (row - np.log(np.exp(row).sum(-1, keepdims=True)) for row in (here, there))
    expected = (np.exp(p) * (p - q)).sum(-1)[:-1]
    assert done.kl_divergence > 0
    with elm_mlx.load(tmp_path / "whole") as whole, elm_mlx.load(tmp_path / "four") as four:
        assert four.scores(ids, against=whole).divergences == pytest.approx(expected, abs=1e-4)
