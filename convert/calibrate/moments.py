"""The moments of a product's inputs: what an error in its matrix costs."""

from __future__ import annotations

import numpy as np


class Moments:
    """The sum of x xᵀ over inputs x of a product, in float32, and their `count`.

    Where a matrix W is stored as Q, the squared error of the product over these inputs is the trace of
    (W - Q) sum (W - Q)ᵀ.
    """

    def __init__(self, width: int) -> None:
        self.sum = np.zeros((width, width), np.float32)
        self.count = 0

    def add(self, inputs: np.ndarray) -> None:
        """Counts inputs [T, width] in."""
        self.sum += inputs.T @ inputs
        self.count += len(inputs)
