"""A constraint as the engine uses it: its masks are checked, and whatever it raises ends its own answer alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from elm_mlx.engine.constraint import Constraint
from elm_mlx.errors import ElmError, InvalidRequest, RequestFailed

T = TypeVar("T")
WORD = 32  # ids that a word of a mask has bits for
FREE = np.uint32(2**WORD - 1)  # the word that allows all of its ids


class Guide:
    """Follows one answer with its Constraint. `banned` ids are never allowed, whatever the constraint says.

    `begin` must be called first. `words` is the mask that the next id is drawn with, uint32 [ceil(V / 32)], once it was
    asked for, else None.
    """

    def __init__(self, constraint: Constraint, banned: Collection[int] = ()) -> None:
        self.constraint, self.banned = constraint, banned
        self.words: np.ndarray | None = None
        self.place = 1  # of the next id in the answer
        self.vocabulary, self.sieve = 0, np.zeros(0, np.uint32)

    def begin(self, vocabulary: int) -> None:
        """Is told of how many ids there are logits. A mask has bits beyond them where they do not fill its last word:
        these are never allowed."""
        self.vocabulary, self.sieve = vocabulary, all_but(self.banned, vocabulary)

    def next(self) -> np.ndarray:
        """The mask that the next id is to be drawn with: of the ids that the constraint allows, those that are not
        banned, one at least. Raises ElmError where there is none, and what Constraint.mask raises, as an ElmError."""
        if self.words is None:
            words = guarded(lambda: np.asarray(self.constraint.mask()))
            if words.dtype != np.uint32 or words.shape != self.sieve.shape:
                raise failed(f"its mask is {words.dtype} {list(words.shape)}, not uint32 {list(self.sieve.shape)}")
            allowed = words & self.sieve
            if not allowed.any():
                self._refuse(words)
            self.words = allowed
        return self.words

    def _refuse(self, words: np.ndarray) -> None:
        """Raises the error for a mask that leaves no id to draw."""
        if not (words & all_but((), self.vocabulary)).any():
            raise failed(f"it allows no id as token {self.place}")
        raise InvalidRequest(f"Every token that the form of the answer allows as token {self.place} is banned.",
                             "Ban fewer with {banned_ids} and {logit_bias}, or ask for another form.")  # fmt: skip

    def take(self, token: int, is_last: bool = False) -> None:
        """Takes the id that was drawn, which ends the answer if it `is_last`. Raises RequestFailed for one that the
        mask forbids, which is drawn where the model gives all others a probability of 0, and what Constraint.accept
        raises, as an ElmError."""
        if self.words is not None and not has(self.words, token):
            raise RequestFailed(f"The model gives no token that the form of the answer allows as token {self.place} "
                                "a probability above 0.", "Ask for another form.")  # fmt: skip
        if not is_last:
            guarded(lambda: self.constraint.accept(token))
        self.words = None
        self.place += 1

    def fork(self) -> Guide:
        """A copy that goes on alone. Raises what Constraint.fork raises, as an ElmError."""
        copy = Guide(guarded(self.constraint.fork), self.banned)
        copy.vocabulary, copy.sieve = self.vocabulary, self.sieve
        copy.place, copy.words = self.place, self.words
        return copy


class Foreseen(NamedTuple):
    """The first k proposals that a constraint allows one after the other; the masks of the ids that are drawn before,
    between and after them, uint32 [1 + k, ceil(V / 32)]; and whether the proposal after them is forbidden."""

    ids: list[int]
    words: np.ndarray
    is_cut: bool

    def first(self, count: int) -> Foreseen:
        """The first `count` of them."""
        return self if count == len(self.ids) else Foreseen(self.ids[:count], self.words[: count + 1], False)


NOTHING_FORESEEN = Foreseen([], np.zeros((0, 0), np.uint32), False)


def foresee(guide: Guide, proposals: Sequence[int], stop_ids: Collection[int]) -> Foreseen:
    """What of the proposals can stand, up to the first that is forbidden or may end the answer: after that one there
    is no mask. Whatever the constraint raises for an id that is only proposed ends the proposals: decoding finds out
    whether the answer comes so far. Raises ElmError where the mask of the very next id fails."""
    words, ids, is_cut = [guide.next()], [], False
    try:
        ahead = guide.fork()
        for token in proposals:
            is_cut = not has(words[-1], token)
            if is_cut or token in stop_ids:
                break
            ahead.take(token)
            words.append(ahead.next())
            ids.append(token)
    except ElmError:
        pass
    return Foreseen(ids, np.stack(words), is_cut)


def has(words: np.ndarray, token: int) -> bool:
    """Whether a mask, uint32 [ceil(V / 32)], allows an id. It allows none beyond it, which a draft may propose."""
    return token // WORD < len(words) and bool(int(words[token // WORD]) >> token % WORD & 1)


def all_but(banned: Collection[int], vocabulary: int) -> np.ndarray:
    """The mask of all ids below `vocabulary` but the banned ones: uint32 [ceil(vocabulary / 32)]."""
    allowed = np.zeros(-(-vocabulary // WORD) * WORD, np.bool_)
    allowed[:vocabulary] = True
    allowed[[id for id in banned if id < vocabulary]] = False
    return np.packbits(allowed, bitorder="little").view("<u4").astype(np.uint32)


def guarded(call: Callable[[], T]) -> T:
    """What a method of a Constraint gives. Raises ElmError in place of whatever else it raises: it belongs to one
    answer, which alone ends by that. A panic in a library that is not written in Python is no Exception."""
    try:
        return call()
    except (ElmError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as cause:
        raise failed(f"{cause!r:.300}") from cause


def failed(why: str) -> RequestFailed:
    """Makes the error for an answer whose constraint is at fault."""
    return RequestFailed(f"What keeps this answer to its form has failed: {why}.", "Ask again, with another form.")
