"""Follows the ids of one answer through its form: an engine.constraint.Constraint."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from elm_mlx.errors import NotEnforceable
from elm_mlx.text.token_bytes import Blanks

REASONS = {  # what llguidance says -> what it means
    "NoExtension": "no text has this form",
    "too many": "it is too complex",
    "too complex": "it is too complex",
    "max is": "it is too complex",
    "limit": "it is too complex",
    "fuel": "it is too complex",
    "too large": "it is too complex",
}


class Marks(NamedTuple):
    """The `ids` without a text that a form names, and those without one that it may not have, as `bits` of a mask."""

    ids: tuple[int, ...]
    bits: np.ndarray


class Ids(NamedTuple):
    """The ids of a model: how many `rows` there are, the one that llguidance takes for the `end` of a text, those
    whose blank is not shown where they come first, and those without a text, where the form names some."""

    rows: int
    end: int
    blanks: Blanks | None
    marks: Marks | None = None


class ConstraintRow:
    """One answer's place in its form. `matcher` is llguidance's; with one of the `stop_ids` the answer may end."""

    def __init__(self, matcher: Any, ids: Ids, stop_ids: frozenset[int] = frozenset()) -> None:
        self._matcher, self._ids = matcher, ids
        self._stops = np.fromiter(stop_ids, np.int64)
        self._is_first = True
        self._opening: np.ndarray | None = None  # the first mask, without stop ids

    def prepare(self) -> None:
        """Computes the first mask, for all answers. Raises NotEnforceable where there is none."""
        self._opening = self._words()
        if self._matcher.is_error():
            why = reason_of(self._matcher.get_error())
            raise NotEnforceable(f"The form of the answer cannot be enforced: {why}.")
        if self._ids.blanks:
            self._open_blanks(self._opening, self._ids.blanks)
        if not (self._opening.any() or self._matcher.is_accepting()):
            raise NotEnforceable("The form of the answer cannot be enforced: no token of this model can begin it.")

    def begin(self, stop_ids: frozenset[int]) -> ConstraintRow:
        """A new answer's place, at the beginning; the answer may end with one of the `stop_ids`."""
        row = self._copy(stop_ids)
        row._opening = self._opening
        return row

    def fork(self) -> ConstraintRow:
        """A copy that goes on alone."""
        row = self._copy(frozenset(self._stops.tolist()))
        row._is_first, row._opening = self._is_first, self._opening
        return row

    def _copy(self, stop_ids: frozenset[int]) -> ConstraintRow:
        return ConstraintRow(self._matcher.deep_copy(), self._ids, stop_ids)

    def mask(self) -> np.ndarray:
        """The ids that may come next, as bits: uint32 [ceil(V / 32)], bit i % 32 of word i // 32 for id i. Raises
        NotEnforceable where the form turns out to be too complex to be followed."""
        words = self._opening.copy() if self._is_first and self._opening is not None else self._words()
        self._check()
        at, bits = self._stops // 32, np.left_shift(1, self._stops % 32).astype(np.uint32)
        np.bitwise_and.at(words, at, ~bits)
        if self._matcher.is_accepting():
            np.bitwise_or.at(words, at, bits)
        return words

    def accept(self, token: int) -> None:
        """Takes the next id of the answer. Raises NotEnforceable for one that the mask does not allow."""
        spelled = self._shown(token) if self._is_first else (token,)
        self._is_first = False
        for id in spelled:
            self._matcher.consume_token(id)
        self._check()

    def _shown(self, token: int) -> tuple[int, ...]:
        """The ids that spell what the first id of an answer shows."""
        if blanks := self._ids.blanks:
            if token in blanks.alone:
                return ()
            if (found := np.flatnonzero(blanks.ids == token)).size:
                return blanks.rest[found[0]]
        return (token,)

    def _words(self) -> np.ndarray:
        """llguidance's mask of the model's ids, without the one that stands for the end of a text there."""
        words = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: -(-self._ids.rows // 32)].copy()
        if self._ids.end // 32 < len(words):
            words[self._ids.end // 32] &= ~np.uint32(1 << self._ids.end % 32)
        if self._ids.marks:
            self._sift(words, self._ids.marks)
        return words

    def _sift(self, words: np.ndarray, marks: Marks) -> None:
        """Takes ids without a text out of a mask that may not come: amid a form that names some, llguidance (1.9) lets
        others into its mask, and then refuses them."""
        words &= ~marks.bits
        for id in marks.ids:
            bit = np.uint32(1 << id % 32)
            if words[id // 32] & bit and self._matcher.validate_tokens([id]) != 1:
                words[id // 32] &= ~bit

    def _open_blanks(self, words: np.ndarray, blanks: Blanks) -> None:
        """Makes the first mask speak of what the ids show there: each id that begins with a blank is allowed where
        what goes on after it is."""
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        allowed = bits[blanks.first] == 1
        for place in np.flatnonzero(allowed):
            rest = list(blanks.rest[place])
            allowed[place] = len(rest) == 1 or self._matcher.validate_tokens(rest) == len(rest)
        bits[blanks.ids] = allowed
        words[:] = np.packbits(bits, bitorder="little").view(np.uint32)

    def _check(self) -> None:
        """Raises NotEnforceable where the form cannot be followed further."""
        if self._matcher.is_error():
            why = reason_of(self._matcher.get_error())
            raise NotEnforceable(f"The form of the answer cannot be followed further: {why}. Make it simpler.")


def reason_of(message: str) -> str:
    """Why llguidance gave up, in a few words."""
    line = message.partition("\n")[0].strip().rstrip(".:")
    return next((words or line for sign, words in REASONS.items() if sign in line), line)[:300]
