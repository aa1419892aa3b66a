"""One training: arrays, optimizer and how far it is, and taking a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import mlx.core as mx

Arrays = dict[str, mx.array]
Sums = mx.array | Sequence[mx.array]


class Targets(Protocol):
    """What is asked of a batch: how many targets it has, known without computing."""

    @property
    def targets(self) -> int:
        """What a mean is taken over."""
        ...


class Optimizer(Protocol):
    """What is asked of one of MLX's optimizers (mlx.optimizers)."""

    state: Any

    def apply_gradients(self, gradients: Any, parameters: Any) -> Any:
        """Gives the parameters after a step."""
        ...


class Training:
    """The arrays that are trained, and the optimizer that changes them.

    `loss` gives the sum of the losses of a batch's targets, from arrays and batch, and after it other sums that are to
    be told; what is made small is the mean over all targets of a step, however many batches a step has.
    """

    def __init__(self, arrays: Arrays, optimizer: Optimizer, loss: Callable[[Arrays, Any], Sums]) -> None:
        self.arrays, self.optimizer = arrays, optimizer

        def means(arrays: Arrays, batch: Targets, targets: int) -> tuple[mx.array, ...]:
            sums = loss(arrays, batch)
            return tuple(one / targets for one in ([sums] if isinstance(sums, mx.array) else sums))

        self._value_and_grad = mx.value_and_grad(means)

    def step(self, batches: Sequence[Targets]) -> float:
        """Learns from batches together, and returns their mean loss a target."""
        return self.learn(batches)[0]

    def learn(self, batches: Sequence[Targets]) -> list[float]:
        """Learns from batches together, and returns their mean loss a target, and the means of the other sums."""
        targets = sum(batch.targets for batch in batches)
        means, gradients = self._value_and_grad(self.arrays, batches[0], targets)
        for batch in batches[1:]:
            mx.eval(means, gradients)  # one batch's states in memory at a time
            more, added = self._value_and_grad(self.arrays, batch, targets)
            means = tuple(one + other for one, other in zip(means, more, strict=True))
            gradients = {name: gradients[name] + added[name] for name in gradients}
        self.arrays = self.optimizer.apply_gradients(gradients, self.arrays)
        del gradients
        mx.eval(means, self.arrays, self.optimizer.state)
        return [number(one) for one in means]


def number(array: mx.array) -> float:
    """The number in an array of one, in float32."""
    value: float = array.item()  # type: ignore[assignment]
    return value
