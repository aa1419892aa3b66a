"""Interpolated modified Kneser-Ney: what counting alone reaches on the text that the demo model learns.

Chen & Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998). Text is one flat
array of token ids: stories, each BOS ... EOS, where story i is ids[offsets[i]:offsets[i + 1]].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]

BOS = 1  # opens every story, so it is never predicted
ABSENT = -1  # the number of an n-gram that training never saw


@dataclass(frozen=True)
class Counts:
    """One count for each n-gram of a level, and the sums over each context (all tokens but the last)."""

    counts: Ints
    totals: Ints
    discounts: Floats
    held_back: Floats

    @classmethod
    def of(cls, counts: Ints, contexts: Ints, size: int) -> Counts:
        taken = discounts(counts)
        totals = np.bincount(contexts, counts, size).astype(np.int64)
        held_back = np.bincount(contexts, taken[np.minimum(counts, 3)], size).astype(np.float64, copy=False)
        return cls(counts, totals, taken, held_back)

    def mix(self, grams: Ints, contexts: Ints, lower: Floats) -> Floats:
        """The discounted estimate, and what the discounts held back, shared out as the lower order estimates."""
        count = np.where(grams == ABSENT, 0, self.counts[grams])
        total = np.where(contexts == ABSENT, 0, self.totals[contexts])
        own = count - self.discounts[np.minimum(count, 3)]
        # Where training has nothing after a context, the lower order's estimate stands alone.
        return np.where(total > 0, (own + self.held_back[contexts] * lower) / np.maximum(total, 1), lower)


@dataclass(frozen=True)
class Level:
    """The n-grams of one length: an n-gram's number is its place in `keys`, sorted."""

    keys: Ints  # the context's number * vocabulary + the last token
    raw: Counts  # how often an n-gram occurs: for the order that is asked for
    continued: Counts  # how many different tokens come before it: for the orders below

    def find(self, keys: Ints) -> Ints:
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, ABSENT)


class KneserNey:
    """A model of every order from 1 to `order`, all counted at once; each question names an order.

    The first tokens of a story have a shorter context, from BOS on. Padding with more BOS would discount one
    count once for each length, and hold back more than the data asks for.
    """

    def __init__(self, ids: Ints, offsets: Ints, vocabulary: int = 2048, order: int = 6) -> None:
        self.vocabulary = vocabulary
        depths, ends = depths_of(offsets), np.zeros(len(ids), np.int64)
        keys: list[Ints] = []
        sizes = [1]  # the empty context
        raw: list[Ints] = []
        preceded: list[Ints] = []
        for n in range(1, order + 1):
            here = np.flatnonzero(depths >= n - 1)
            found, numbers, times = np.unique(
                ends[here - 1] * vocabulary + ids[here], return_inverse=True, return_counts=True
            )
            suffixes = np.zeros(len(found), np.int64)
            suffixes[numbers] = ends[here]  # ends: the number of the (n - 1)-gram that ends at each token
            ends[here] = numbers
            preceded.append(np.bincount(suffixes, minlength=sizes[-1]))  # of the (n - 1)-grams
            keys.append(found)
            raw.append(times)
            sizes.append(len(found))
        raw[0][keys[0] == BOS] = 0
        # Nothing is counted above the last order, and no order above it asks for its continuations.
        preceded = [*preceded[1:], raw[-1]]
        self.levels = [self._level(*parts) for parts in zip(keys, raw, preceded, sizes[:-1], strict=True)]

    def _level(self, keys: Ints, raw: Ints, preceded: Ints, contexts: int) -> Level:
        # Nothing comes before an n-gram that opens a story, so only its occurrences can be counted.
        continued = np.where(preceded == 0, raw, preceded)
        before = keys // self.vocabulary
        return Level(keys, Counts.of(raw, before, contexts), Counts.of(continued, before, contexts))

    def probabilities(self, ids: Ints, offsets: Ints, order: int) -> Floats:
        """p(token | the up to order - 1 tokens before it in its story) for every token; 0 for BOS."""
        if not 1 <= order <= len(self.levels):
            raise ValueError(f"this model has orders 1 to {len(self.levels)}; order {order} was asked for")
        depths, ends = depths_of(offsets), np.zeros(len(ids), np.int64)
        p = np.where(ids == BOS, 0, 1 / (self.vocabulary - 1))
        for n, level in enumerate(self.levels[:order], 1):
            here = np.flatnonzero(depths >= n - 1)
            contexts = ends[here - 1]
            grams = level.find(np.where(contexts == ABSENT, ABSENT, contexts * self.vocabulary + ids[here]))
            p[here] = (level.raw if n == order else level.continued).mix(grams, contexts, p[here])
            ends[here] = grams
        return p


def bits_per_token(model: KneserNey, ids: Ints, offsets: Ints, order: int) -> float:
    """Mean -log2 p over every token that is predicted: all but BOS, EOS included."""
    return float(-np.log2(model.probabilities(ids, offsets, order)[ids != BOS]).mean())


def depths_of(offsets: Ints) -> Ints:
    """How many tokens of its story come before each token: no n-gram reaches further back."""
    bounds = offsets.astype(np.int64)  # unsigned ones would make floats of the difference
    return np.arange(bounds[-1]) - np.repeat(bounds[:-1], np.diff(bounds))


def discounts(counts: Ints) -> Floats:
    """What is taken from a count of 0, 1, 2, and 3 or more, computed from how many n-grams occur 1 to 4 times."""
    once, twice, thrice, four = np.bincount(counts, minlength=5)[1:5].tolist()
    if min(once, twice, thrice, four) > 0:
        y = once / (once + 2 * twice)
        taken = np.array([0, 1 - 2 * y * twice / once, 2 - 3 * y * thrice / twice, 3 - 4 * y * four / thrice])
        if (taken[1:] > 0).all():
            return taken
    # Too few n-grams to estimate from (single tokens, a tiny text): fixed discounts, as KenLM falls back to.
    return np.array([0, 0.5, 1, 1.5])
