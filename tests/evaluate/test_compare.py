"""Two results differ by what their questions differ by, with the bounds of chance."""

from __future__ import annotations

import copy
import json
import math
import random

import numpy as np
import pytest

from elm_mlx.errors import ElmError, InvalidRequest
from elm_mlx.evaluate.compare import Z, compare, mcnemar
from elm_mlx.evaluate.errors_of_means import error_of, pair_of, ratio_and_error
from elm_mlx.evaluate.result_files import read_result


def result(acc, bits=None):
    """A result of one task, with what each question came to."""
    rows = [
        {"id": at, "question": f"q{at}", "metrics": {"acc": float(value)}, "answers": []}
        for at, value in enumerate(acc)
    ]
    metrics = {"acc": {"value": sum(acc) / len(acc), "error": None}}
    if bits:
        for row, pair in zip(rows, bits, strict=True):
            row["metrics"] |= {"bits_per_byte": pair, "f1": [0, 1]}
        total = -sum(a for a, _ in bits) / math.log(2) / sum(b for _, b in bits)
        metrics |= {"bits_per_byte": {"value": total}, "f1": {"value": 0.5}}
    task = {"version": 1, "few_shot": 0, "questions": len(rows), "metrics": metrics}
    settings = {"tasks": ["t"], "few_shot": None, "limit": None, "chat": False, "seed": 1, "kv_bits": None}
    return {"form": "elm-mlx eval 1", "settings": settings, "tasks": {"t": task}, "questions": {"t": rows}}


def test_a_difference_of_accuracies_has_bounds_and_a_probability():
    a, b = [1] * 50 + [0] * 30 + [1] * 4 + [0] * 16, [1] * 50 + [0] * 30 + [0] * 4 + [1] * 16
    (one,) = compare(result(a), result(b))
    assert (one.better, one.worse, one.questions) == (16, 4, 100)
    assert one.difference == pytest.approx(0.12)
    up, down = 17 / 102, 5 / 102  # Bonett and Price, by hand
    width = 1.959964 * math.sqrt((up + down - (up - down) ** 2) / 102)
    assert (one.low, one.high) == (pytest.approx(up - down - width), pytest.approx(up - down + width))
    assert not one.is_chance
    assert one.chance == pytest.approx(0.0118, abs=1e-4)  # of 20 throws of a coin 4 or fewer, twice
    (same,) = compare(result(a), result(a))
    assert same.low < 0 < same.high
    assert same.chance == 1


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (5, 5), (3, 9), (400, 460), (0, 2000)])
def test_mcnemars_probability_is_that_of_the_binomial_distribution(better, worse):
    count = better + worse
    tail = sum(math.comb(count, k) for k in range(min(better, worse) + 1))
    assert mcnemar(better, worse) == pytest.approx(min(1, 2 * (tail / 2**count)), rel=1e-9, abs=1e-300)


def test_intervals_hold_the_true_difference_about_95_times_of_100():
    draw, held = random.Random(0), {"acc": 0, "bits_per_byte": 0}
    for _ in range(300):
        acc, bits = ([], []), ([], [])
        for _ in range(80):
            hard, length = draw.random(), draw.randrange(20, 60)
            for side, shift in enumerate((0.0, 0.06)):
                acc[side].append(int(draw.random() < min(1, hard * 0.8 + shift)))
                bits[side].append([-length * (1 + hard + shift + draw.gauss(0, 0.2)), length])
        found = {one.metric: one for one in compare(*map(result, acc, bits))}
        held["acc"] += found["acc"].low <= 0.06 <= found["acc"].high
        held["bits_per_byte"] += found["bits_per_byte"].low <= 0.06 / math.log(2) <= found["bits_per_byte"].high
        assert found["f1"].difference is None
    assert all(270 <= count <= 299 for count in held.values()), held


def test_the_error_of_equal_weights_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(size=50)
    mean, error = ratio_and_error([(value, 1.0) for value in values])
    assert (mean, error) == (pytest.approx(values.mean()), pytest.approx(values.std(ddof=1) / math.sqrt(50)))
    assert ratio_and_error([(1.0, 1.0)] * 9)[1] is None
    assert round(Z, 4) == 1.96


def test_perplexities_differ_in_bits_and_their_errors_are_their_own():
    draw = np.random.default_rng(1)
    a = draw.normal(-20, 2, 40)
    b = a + draw.normal(1, 0.5, 40)  # more likely: fewer bits
    results = [result([1] * 40) for _ in range(2)]
    for made, values in zip(results, (a, b), strict=True):
        made["tasks"]["t"]["metrics"] = {"perplexity": {"value": float(np.exp(-values.mean()))}}
        for row, value in zip(made["questions"]["t"], values, strict=True):
            row["metrics"] = {"perplexity": float(value)}
    (one,) = compare(*results)
    bits = (a - b) / math.log(2)
    assert one.in_bits
    assert one.difference == pytest.approx(bits.mean())
    assert one.high - one.low == pytest.approx(2 * Z * bits.std(ddof=1) / math.sqrt(40))
    pairs = [pair_of("perplexity", float(value)) for value in a]
    again = [np.exp(-draw.choice(a, 40).mean()) for _ in range(4000)]  # as lm-eval finds it
    assert error_of("perplexity", float(np.exp(-a.mean())), pairs) == pytest.approx(np.std(again), rel=0.15)


@pytest.mark.parametrize("value", [["x", 1], [None, 1], [1, 0], [1, 2, 3], [10**400, 1], 10**400, math.nan, None, "1"])
@pytest.mark.parametrize("metric", ["word_perplexity", "acc"])
def test_what_is_no_number_of_a_question_leaves_its_metric_without_an_interval(metric, value):
    assert pair_of(metric, value) is None


def changed(edit):
    other = copy.deepcopy(result([1, 0, 1], [[-5.0, 3]] * 3))
    edit(other)
    return other


@pytest.mark.parametrize("edit", [
    lambda r: r["settings"].update(seed=2), lambda r: r["settings"].update(limit=3),
    lambda r: r["tasks"]["t"].update(few_shot=5), lambda r: r["tasks"]["t"].update(version=2),
    lambda r: r["questions"]["t"].pop(), lambda r: r["questions"]["t"][1].update(question="other"),
    lambda r: r["tasks"]["t"]["metrics"].pop("acc"), lambda r: r["tasks"].update(u=r["tasks"]["t"]),
    lambda r: r["questions"]["t"][0]["metrics"].pop("acc"),
    lambda r: r["tasks"]["t"]["metrics"].update(more={"value": 1.0}),
])  # fmt: skip
def test_results_of_other_questions_or_settings_are_refused(edit):
    with pytest.raises(InvalidRequest, match=r"compared|Only one"):
        compare(result([1, 0, 1], [[-5.0, 3]] * 3), changed(edit))


def test_other_caches_and_models_are_compared():
    assert compare(result([1, 0, 1], [[-5.0, 3]] * 3), changed(lambda r: r["settings"].update(kv_bits=8)))


@pytest.mark.parametrize("content", [
    "", "[]", "{}", '{"form": "elm-mlx eval 1"}', "[" * 10**5, json.dumps(result([1]) | {"tasks": {}}),
    json.dumps(result([1]) | {"form": 2}), json.dumps(result([1])).replace('"value": 1.0', f'"value": {10**400}'),
])  # fmt: skip
def test_a_file_that_is_no_result_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ElmError, match=r"a\.json"):
        read_result(tmp_path / "a.json")


def test_a_result_is_read_as_it_was_written(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"name": "demo"} | result([1, 0])))
    assert read_result(tmp_path / "a.json")["questions"] == result([1, 0])["questions"]
