"""Random constraints over ids: what is allowed changes with each id."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

STATES = 12


class Broken(Exception):
    """What an automaton raises that is told to fail."""


class Automaton:
    """A constraint with a few states, made by a seed. In a state one id is allowed, a few, many, or almost all; in some
    of them also the stop ids, and they alone in some.

    `fails_after` so many ids its mask raises, or its `accept` where `accepting`. `banned` is what else it refuses: a
    mask without any other id raises, too.
    """

    def __init__(
        self,
        seed: int,
        vocabulary: int,
        stop_ids: Collection[int] = (),
        fails_after: int | None = None,
        accepting: bool = False,
        banned: Collection[int] = (),
    ) -> None:
        self.seed, self.vocabulary, self.stop_ids = seed, vocabulary, stop_ids
        self.fails_after, self.accepting, self.banned = fails_after, accepting, banned
        self.state = self.length = self.asked = 0

    def allowed(self) -> np.ndarray:
        """Which ids may come next: bool [V]."""
        rng = np.random.default_rng((self.seed, self.state))
        share = [0.0, 4 / self.vocabulary, 0.1, 0.5, 0.98][rng.integers(5)]
        found = rng.random(self.vocabulary) < share
        found[rng.integers(self.vocabulary)] = True
        stops = [*self.stop_ids]
        found[stops] = rng.random() < 0.5
        if (stops and rng.random() < 0.1) or not found.any():
            found[:] = False
            found[stops or [0]] = True
        return found

    def mask(self) -> np.ndarray:
        self.asked += 1
        if self.length == self.fails_after and not self.accepting:
            raise Broken(f"after {self.length} ids")
        found = self.allowed()
        if not any(found[id] for id in range(self.vocabulary) if id not in self.banned):
            raise Broken("all is banned")
        return packed(found)

    def accept(self, token: int) -> None:
        if not self.allowed()[token] or token in self.stop_ids:
            raise Broken(f"{token} is not allowed")
        if self.length == self.fails_after and self.accepting:
            raise Broken(f"after {self.length} ids")
        self.length += 1
        self.state = (self.state * 31 + token) % STATES

    def fork(self) -> Automaton:
        copy = Automaton(
            self.seed, self.vocabulary, self.stop_ids, self.fails_after, self.accepting, self.banned
        )  # fmt: skip
        copy.state, copy.length = self.state, self.length
        return copy


class Told:
    """A constraint whose masks [V] are given, one for each id of the answer; the last goes on."""

    def __init__(self, masks: Sequence[np.ndarray]) -> None:
        self.masks, self.length = masks, 0

    def mask(self) -> np.ndarray:
        return packed(self.masks[min(self.length, len(self.masks) - 1)])

    def accept(self, token: int) -> None:
        self.length += 1

    def fork(self) -> Told:
        copy = Told(self.masks)
        copy.length = self.length
        return copy


def packed(allowed: np.ndarray) -> np.ndarray:
    """Bools [V] as a mask, uint32 [ceil(V / 32)]."""
    bits = np.zeros(-(-len(allowed) // 32) * 32, np.bool_)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)


def only(vocabulary: int, *ids: int) -> np.ndarray:
    """Bools [V], true for these ids alone."""
    found = np.zeros(vocabulary, np.bool_)
    found[list(ids)] = True
    return found
