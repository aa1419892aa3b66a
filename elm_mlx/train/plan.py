"""How much memory a training takes, told before it starts, and refused with the numbers where it is too much."""

from __future__ import annotations

import re
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
OF_DORA = 1  # more of them: the results before they get their lengths; found in the same way
PASSED = 0.25  # of a block before the trained ones, whose states are not kept; found in the same way
RECOMPUTED = 1.25  # of a layer whose states are computed again: they, and gradients of some; found in the same way
OF_LOGITS = 4  # arrays as large as the logits: they, their float32 copy, their gradient, what is in between


@dataclass(frozen=True)
class Load:
    """What is learned at once: `rows` rows of `length` ids; whether a layer's states are computed again for the
    gradient (`recomputes`) instead of being kept; how many of the last blocks are trained (None: all);
    and whether rows of matrices get lengths (`dora`)."""

    rows: int
    length: int
    recomputes: bool = False
    blocks: int | None = None
    dora: bool = False


@dataclass(frozen=True)
class Plan:
    """Bytes that a training takes at once: the base's `weights`, the trained `arrays` with their gradients and means,
    and the `states` of one batch, the `load`."""

    weights: int
    arrays: int
    states: int
    load: Load

    @property
    def total(self) -> int:
        """All of it together."""
        return self.weights + self.arrays + self.states

    def __str__(self) -> str:
        return (
            f"{readable_size(self.total)} (weights {readable_size(self.weights)}, what is trained "
            f"{readable_size(self.arrays)}, states {readable_size(self.states)} for {self.load.rows} rows of "
            f"{self.load.length:,} tokens)"
        )


def plan_training(config: ModelConfig, weights: int, arrays: Arrays, load: Load) -> Plan:
    """Estimates the memory of a training from the shapes of a model's matrices, its largest batch, and its arrays.
    `weights` are the bytes that the model holds beside these."""
    states = load.rows * load.length * FLOAT * (kept_floats(config, load) + OF_LOGITS * config.vocab_size)
    trained = OF_ADAM * sum(FLOAT * array.size for array in arrays.values())
    return Plan(weights, trained, states, load)


def kept_floats(config: ModelConfig, load: Load) -> int:
    """How many floats the gradient keeps for a token, without the logits: of all layers; or, where states are computed
    again, what goes into each layer, and all of the largest one."""
    widths, shared, shapes = [0] * config.num_blocks, 0, config.weight_shapes()
    for name, shape in shapes.items():
        if len(shape) == 2 and shape[0] != config.vocab_size:
            if found := re.search(r"\.layers\.(\d+)\.", name):
                widths[int(found.group(1))] += shape[0]
            else:
                shared += shape[0]
    kept = KEPT + OF_DORA * load.dora
    blocks = [kept * (width + shared) + heads * load.length * 2
              for width, heads in zip(widths, config.num_heads, strict=True)]  # fmt: skip
    # What blocks share is trained in all of them.
    first = len(blocks) - load.blocks if load.blocks and not shared else 0
    before, learned = PASSED * sum(blocks[:first]), blocks[first:]
    if not load.recomputes:
        return config.repeats * int(before + sum(learned))
    inputs = config.repeats * len(learned) * shapes[config.embedding_name][1]
    return inputs + int(config.repeats * before + RECOMPUTED * max(learned))


def check_plan(plan: Plan, loaded: int, force: bool) -> None:
    """Raises NotEnoughMemory, with the numbers, where this machine has no room for a training, unless `force`. `loaded`
    bytes of the weights are in memory already."""
    room = memory_limit() - (mx.get_active_memory() if gpu_memory() else 0)
    needed = plan.total - loaded
    if needed > room and not force:
        more = "" if plan.load.recomputes else ", {checkpoint_gradients=True}"
        beside = "beside the weights " if loaded else ""
        raise NotEnoughMemory(
            f"This training takes {plan}, and {beside}this machine has {readable_size(max(0, room))}.",
            "Take a smaller {batch_size} with more {accumulate}, a smaller {max_length}" + more
            + " or fewer {layers}, or try with {force=True}.",
            needed, room,
        )  # fmt: skip
