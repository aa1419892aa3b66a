"""How much of what the demo model writes stands word for word in the text that it learnt from.

Samples and training stories come as lists of words; no run of words crosses from one text into the next.
Every training iterable is read once. Nothing is hashed, so no figure can depend on a collision.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]

# A sentence ends at . ! or ?, with the quotation mark that may close on it, or where a paragraph ends.
SENTENCE_END = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["'”’]))\s+|\s*\n\s*\n\s*""")


def shared_ngrams(samples: list[list[str]], training: Iterable[list[str]], n: int = 8) -> float:
    """The share of the samples' n-grams, each occurrence counted, that occur anywhere in the training text."""
    # The last n - 1 words of a sample open no n-gram.
    runs = [lengths[: max(len(lengths) - n + 1, 0)] for lengths in shared_runs(samples, training)]
    starts = sum(map(len, runs))
    return sum(int((lengths >= n).sum()) for lengths in runs) / starts if starts else 0.0


def longest_shared_run(samples: list[list[str]], training: Iterable[list[str]]) -> tuple[float, int]:
    """(median, max) over the samples of the longest run of words found verbatim in one training story."""
    longest = [lengths.max(initial=0) for lengths in shared_runs(samples, training)]
    return float(np.median(longest)), int(max(longest))


def repeated_sentences(samples_text: Iterable[str], training_sentences: set[str]) -> float:
    """The share of the samples' sentences that are in the set of training's; `sentences` cuts both."""
    found = [sentence in training_sentences for text in samples_text for sentence in sentences(text)]
    return sum(found) / len(found) if found else 0.0


def sentences(text: str) -> list[str]:
    """The sentences of a text, with single spaces for all white space."""
    return [" ".join(part.split()) for part in SENTENCE_END.split(text) if part.strip()]


def shared_runs(samples: list[list[str]], training: Iterable[list[str]]) -> list[Ints]:
    """For each word of each sample, the length of the longest run from there that training has verbatim."""
    # A word of the training text that no sample uses needs no number of its own: it only ends runs.
    words = {word: i for i, word in enumerate(dict.fromkeys(chain.from_iterable(samples)), 1)}
    other = len(words) + 1
    ours = _flat(samples, words, other, end=0)
    theirs = _flat(training, words, other, end=other)
    cuts = np.cumsum([len(sample) + 1 for sample in samples])
    return [part[:-1] for part in np.split(_run_lengths(ours, theirs, other + 1), cuts)[:-1]]


def _flat(texts: Iterable[list[str]], words: dict[str, int], other: int, end: int) -> Ints:
    # The ends differ between the two sides, so that no run ever includes one.
    return np.fromiter((i for text in texts for i in chain((words.get(w, other) for w in text), (end,))), np.int32)


def _run_lengths(ours: Ints, theirs: Ints, size: int) -> Ints:
    """Grows every run by a word at a time, and keeps the starts whose run still stands on both sides."""
    lengths = np.zeros(len(ours), np.int64)
    starts, names = np.arange(len(ours)), np.zeros(len(ours), np.int64)
    their_starts, their_names = np.flatnonzero(theirs < size - 1), np.int64(0)
    for n in range(len(ours)):
        # A run's name is its number among the samples' runs of this length, so the next key stays exact.
        keys, names = np.unique(names * size + ours[starts + n], return_inverse=True)
        their_keys = their_names * size + theirs[their_starts + n]
        places = np.minimum(np.searchsorted(keys, their_keys), len(keys) - 1)
        kept = keys[places] == their_keys
        their_starts, their_names = their_starts[kept], places[kept]
        alive = np.isin(names, their_names)
        starts, names = starts[alive], names[alive]
        if not len(starts):
            break
        lengths[starts] = n + 1
    return lengths
