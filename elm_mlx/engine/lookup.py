"""Proposals from the text itself: what followed the last time that the same ids came. For answers that copy."""

from __future__ import annotations

from collections.abc import Sequence

LENGTHS = (4, 3, 2)  # ids that have to be the same, the longest first: it is the surest
MOST = 32_768  # places that are remembered for each length: about 20 MB in all; computed


class Lookup:
    """A Proposer that remembers which id followed each run of 4, 3 and 2 ids, in dicts: a new id takes the same time
    however long the text is. Of a very long text it remembers the last places alone."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.places: dict[int, dict[tuple[int, ...], int]] = {length: {} for length in LENGTHS}  # run -> what followed

    def read(self, ids: Sequence[int]) -> bool:
        """Takes in the ids beyond those that it has; it can always propose."""
        known = len(self.ids)
        self.ids += ids[known:]
        for end in range(max(known, len(self.ids) - MOST), len(self.ids)):
            self._remember(end)
        return True

    def _remember(self, end: int) -> None:
        """Notes what the id at `end` has followed."""
        for length, places in self.places.items():
            if end >= length:
                run = tuple(self.ids[end - length : end])
                places.pop(run, None)  # so that a run which came again is the newest
                places[run] = end
                if len(places) > MOST:
                    del places[next(iter(places))]

    def propose(self, most: int) -> list[int]:
        """The `most` ids that followed the last ids when they came before; none where they did not. A text that
        repeats itself up to its end is taken to go on so."""
        place = self._place()
        if place is None:
            return []
        period = len(self.ids) - place
        return [self.ids[place + step % period] for step in range(most)]

    def _place(self) -> int | None:
        """Where that begins which followed the last ids before."""
        # Older places may be there or not: that depends on how many ids came at once, and a guess must not.
        oldest = len(self.ids) - MOST
        found = (places.get(tuple(self.ids[-length:]), -1) for length, places in self.places.items())
        return next((place for place in found if place >= max(oldest, 0)), None)

    def accepted(self, count: int) -> None:
        """Nothing has to be taken back: only ids of the answer are remembered."""
