"""What samples share with the training text, against the plain search for it."""

import random

import pytest
from overlap import longest_shared_run, repeated_sentences, sentences, shared_ngrams, shared_runs

TRAINING = [["once", "upon", "a", "time", "there", "was", "a", "cat"], ["the", "cat", "sat", "on", "the", "mat"]]


def occurs(run, training):
    return any(run == story[i : i + len(run)] for story in training for i in range(len(story)))


def plain_runs(sample, training):
    return [
        max((n for n in range(1, len(sample) - i + 1) if occurs(sample[i : i + n], training)), default=0)
        for i in range(len(sample))
    ]


def test_runs_are_those_of_a_plain_search():
    choose = random.Random(0)
    texts = [[choose.choice("abcd") for _ in range(choose.randint(0, 30))] for _ in range(60)]
    samples, training = [*texts[:20], list("abxcd")], [*texts[20:], list("yabz")]
    assert [run.tolist() for run in shared_runs(samples, iter(training))] == [plain_runs(s, training) for s in samples]


def test_share_of_ngrams_counts_every_occurrence():
    sample = ["the", "cat", "sat", "on", "a", "time", "there"]
    # the cat sat, cat sat on | sat on a, on a time | a time there
    assert shared_ngrams([sample], TRAINING, n=3) == pytest.approx(3 / 5)
    assert shared_ngrams([sample, ["short"]], TRAINING, n=3) == pytest.approx(3 / 5)
    assert shared_ngrams([sample], TRAINING, n=8) == 0


def test_no_run_crosses_into_the_next_text():
    assert longest_shared_run([["was", "a", "cat", "the", "cat", "sat"]], TRAINING) == (3, 3)
    assert longest_shared_run([["was", "a"], ["cat"]], TRAINING) == (1.5, 2)


def test_longest_run_is_given_as_median_and_maximum():
    samples = [["a", "dog", "sat", "on", "the", "mat"], ["cat"], ["dog"], []]
    assert longest_shared_run(samples, TRAINING) == (0.5, 4)


def test_nothing_is_shared_where_there_is_nothing():
    assert shared_ngrams([[]], TRAINING) == 0
    assert shared_ngrams([["cat"] * 9], []) == 0
    assert repeated_sentences([""], {"The end."}) == 0


def test_sentences_end_at_marks_quotes_and_paragraphs():
    text = 'Tom ran.  He said, "Stop!" Then\nhe left\n\nThe end.'
    assert sentences(text) == ["Tom ran.", 'He said, "Stop!"', "Then he left", "The end."]


def test_share_of_repeated_sentences():
    known = set(sentences("Tom ran. The end."))
    assert repeated_sentences(["Tom ran. Tom sat.", "Sam ran. The  end."], known) == pytest.approx(0.5)
