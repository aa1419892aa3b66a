"""Bringing a model's arrays into memory, one parameter after the other."""

from __future__ import annotations

import mlx.core as mx

from elm_mlx.arguments import Progress


class Evaluate:
    """Brings each parameter into memory as it is given out, so that the peak stays near the file's size.

    Progress is counted in elements, which neither a cast nor joining rows changes, and reported in stored bytes.
    """

    def __init__(self, elements: int, nbytes: int, progress: Progress | None) -> None:
        self.done, self.elements, self.nbytes, self.progress = 0, elements, nbytes, progress

    def __call__(self, *arrays: mx.array) -> None:
        mx.eval(*arrays)
        self.done += sum(array.size for array in arrays)
        if self.progress:
            done = min(self.done, self.elements)  # a norm that is repeated for every head is counted more than once
            self.progress(self.nbytes * done // self.elements, self.nbytes)
