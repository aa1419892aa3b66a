"""The Kneser-Ney baseline: its probabilities sum to one and are those of the textbook's formula."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from ngram import KneserNey, bits_per_token, discounts

BOS, EOS, VOCABULARY = 1, 2, 12
ORDERS = range(1, 7)


def flat(stories):
    ids = np.array([token for story in stories for token in story], np.uint16)
    return ids, np.cumsum([0, *map(len, stories)])


def random_stories(count, seed=0):
    random = np.random.default_rng(seed)
    # Tokens 3 to 10 with unequal chances; 0 and 11 never occur.
    chances = np.arange(1, 9) / 36
    return [
        [BOS, *random.choice(np.arange(3, 11), size, p=chances).tolist(), EOS] for size in random.integers(6, 14, count)
    ]


def follow(model, context, order):
    """p(token | context) for every token of the vocabulary."""
    ids, offsets = flat([[*context, token] for token in range(VOCABULARY)])
    return model.probabilities(ids, offsets, order)[len(context) :: len(context) + 1]


class SlowTwin:
    """The definition, n-gram by n-gram, in dictionaries."""

    def __init__(self, stories, order):
        raw, before = Counter(), defaultdict(set)
        for story in stories:
            for end in range(1, len(story) + 1):
                for n in range(1, min(order, end) + 1):
                    gram = tuple(story[end - n : end])
                    raw[gram] += 1
                    if end > n:
                        before[gram].add(story[end - n - 1])
        raw[BOS,] = 0
        self.order, self.counts, self.taken = order, defaultdict(dict), {}
        for gram, times in raw.items():
            counted = times if len(gram) == order or gram[0] == BOS else len(before[gram])
            self.counts[gram[:-1]][gram[-1]] = counted
        for n in range(1, order + 1):
            level = [c for context, after in self.counts.items() if len(context) == n - 1 for c in after.values()]
            self.taken[n] = discounts(np.array(level))

    def p(self, context, token):
        lower = self.p(context[1:], token) if context else 0 if token == BOS else 1 / (VOCABULARY - 1)
        after = self.counts.get(context)
        if not after:
            return lower
        taken = self.taken[len(context) + 1]
        count = after.get(token, 0)
        held_back = sum(taken[min(c, 3)] for c in after.values())
        return (count - taken[min(count, 3)] + held_back * lower) / sum(after.values())


@pytest.mark.parametrize("order", ORDERS)
def test_probabilities_sum_to_one_after_any_context(order):
    stories = random_stories(60)
    model = KneserNey(*flat(stories), VOCABULARY)
    seen = [story[:cut] for story in stories[:20] for cut in (1, 3, 6)]
    anything = np.random.default_rng(1).integers(0, VOCABULARY, (40, 5)).tolist()
    for context in [*seen, *anything]:
        p = follow(model, context, order)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert p[BOS] == 0
        assert (np.delete(p, BOS) > 0).all()


@pytest.mark.parametrize("count", [2, 60], ids=["fixed discounts", "estimated discounts"])
@pytest.mark.parametrize("order", ORDERS)
def test_every_probability_is_the_dictionaries(order, count):
    stories = random_stories(count)
    model, twin = KneserNey(*flat(stories), VOCABULARY), SlowTwin(stories, order)
    held_out = random_stories(10, seed=7)
    expected = [twin.p(tuple(s[max(i - order + 1, 0) : i]), s[i]) for s in held_out for i in range(len(s))]
    np.testing.assert_allclose(model.probabilities(*flat(held_out), order), expected, rtol=1e-12)


def test_a_value_worked_by_hand():
    # BOS a b EOS twice, BOS b EOS once. b follows a always (2 of 2); the discounts are the fixed ones, 1 for a 2.
    a, b = 3, 4
    model = KneserNey(*flat([[BOS, a, b, EOS], [BOS, a, b, EOS], [BOS, b, EOS]]), VOCABULARY, 2)
    # Before a: BOS. Before b: a and BOS. Before EOS: b. Counts 1, 2, 1; held back 0.5 + 1 + 0.5 of 4.
    alone = (2 - 1 + 2 / (VOCABULARY - 1)) / 4
    assert follow(model, [a], 2)[b] == pytest.approx((2 - 1 + 1 * alone) / 2)


def test_discounts_follow_the_counts_of_counts():
    # n1 = 4, n2 = 2, n3 = 1, n4 = 1, so Y = 4 / 8.
    taken = discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4, 9]))
    np.testing.assert_allclose(taken, [0, 1 - 0.5, 2 - 0.75, 3 - 2])


def test_an_order_that_was_not_counted_is_refused():
    text = flat(random_stories(5))
    with pytest.raises(ValueError, match="orders 1 to 2; order 3"):
        bits_per_token(KneserNey(*text, VOCABULARY, 2), *text, 3)


def test_a_longer_context_pays_on_structured_text():
    # Each token is told by the two before it.
    random = np.random.default_rng(3)
    stories = []
    for _ in range(300):
        story = [BOS, *random.integers(3, 11, 2).tolist()]
        while len(story) < 20:
            story.append(3 + (story[-1] * 3 + story[-2]) % 8)
        stories.append([*story, EOS])
    model = KneserNey(*flat(stories[:200]), VOCABULARY)
    bits = [bits_per_token(model, *flat(stories[200:]), order) for order in ORDERS]
    assert bits[0] > bits[1] > bits[2]
    assert max(bits[2:]) < 1 < 2 < bits[0]
