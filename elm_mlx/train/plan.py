"""How much memory a training takes, told before it starts, and refused with the numbers where it is too much."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.device.memory import gpu_memory, memory_limit
from elm_mlx.errors import NotEnoughMemory
from elm_mlx.files import readable_size
from elm_mlx.train.training import Arrays

FLOAT = 4  # bytes
OF_ADAM = 4  # arrays of each trained one: itself, its gradient, and Adam's two means
KEPT = 4  # arrays as wide as a product's result that the gradient keeps for it; found by measuring the demo
OF_LOGITS = 4  # arrays as large as the logits: they, their float32 copy, their gradient, what is in between


@dataclass(frozen=True)
class Plan:
    """Bytes that a training takes at once: the base's `weights`, the trained `arrays` with their gradients and means,
    and the `states` of one batch of `rows` rows of `length` tokens."""

    weights: int
    arrays: int
    states: int
    rows: int
    length: int

    @property
    def total(self) -> int:
        """All of it together."""
        return self.weights + self.arrays + self.states

    def __str__(self) -> str:
        return (
            f"{readable_size(self.total)} (weights {readable_size(self.weights)}, what is trained "
            f"{readable_size(self.arrays)}, states {readable_size(self.states)} for {self.rows} rows of "
            f"{self.length:,} tokens)"
        )


def plan_training(config: ModelConfig, weights: int, arrays: Arrays, rows: int, length: int) -> Plan:
    """Estimates the memory of a training from the shapes of a model's matrices, its largest batch, and its arrays."""
    shapes = [(name, shape) for name, shape in config.weight_shapes().items() if len(shape) == 2]
    widths = sum(config.times_read(name) * shape[0] for name, shape in shapes if shape[0] != config.vocab_size)
    scores = sum(config.num_heads) * config.repeats * length * 2
    states = rows * length * FLOAT * (KEPT * widths + scores + OF_LOGITS * config.vocab_size)
    trained = OF_ADAM * sum(FLOAT * array.size for array in arrays.values())
    return Plan(weights, trained, states, rows, length)


def check_plan(plan: Plan, force: bool) -> None:
    """Raises NotEnoughMemory, with the numbers, where this machine has no room for a training, unless `force`."""
    room = memory_limit() - (mx.get_active_memory() if gpu_memory() else 0)
    needed = plan.total - plan.weights  # the weights are loaded already
    if needed > room and not force:
        raise NotEnoughMemory(
            f"This training takes {plan}, and beside the weights this machine has {readable_size(max(0, room))}.",
            "Take a smaller {batch_size} with more {accumulate}, a smaller {max_length} or fewer {layers}, or try with "
            "{force=True}.",
            needed, room,
        )  # fmt: skip
