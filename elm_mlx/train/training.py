"""One training: arrays, optimizer and how far it is, and taking a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import mlx.core as mx

from elm_mlx.train.examples import Batch

Arrays = dict[str, mx.array]


class Optimizer(Protocol):
    """What is asked of one of MLX's optimizers (mlx.optimizers)."""

    state: Any

    def apply_gradients(self, gradients: Any, parameters: Any) -> Any:
        """Gives the parameters after a step."""
        ...


class Training:
    """The arrays that are trained, and the optimizer that changes them.

    `loss` gives the sum of the losses of a batch's targets, from arrays and batch; what is made small is the mean over
    all targets of a step, however many batches a step has.
    """

    def __init__(self, arrays: Arrays, optimizer: Optimizer, loss: Callable[[Arrays, Batch], mx.array]) -> None:
        self.arrays, self.optimizer = arrays, optimizer
        self._value_and_grad = mx.value_and_grad(lambda arrays, batch, targets: loss(arrays, batch) / targets)

    def step(self, batches: Sequence[Batch]) -> float:
        """Learns from batches together, and returns their mean loss a target."""
        targets = sum(batch.targets for batch in batches)
        total, gradients = self._value_and_grad(self.arrays, batches[0], targets)
        for batch in batches[1:]:
            mx.eval(total, gradients)  # one batch's states in memory at a time
            more, added = self._value_and_grad(self.arrays, batch, targets)
            total, gradients = total + more, {name: gradients[name] + added[name] for name in gradients}
        self.arrays = self.optimizer.apply_gradients(gradients, self.arrays)
        mx.eval(total, self.arrays, self.optimizer.state)
        return float(total.item())
