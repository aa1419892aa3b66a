"""Calibration in stages: the embedding's states, a layer after another, the head.

A stage rounds the matrices of one layer, each for the inputs that it gets where all that is before it is rounded
already, and takes the states of all windows to the layer's end. A tied embedding is rounded in the last stage, as the
head that it is, too; until then the states come from the source's own.

States are called `hidden`, [T, E] in float32, for the T ids of all windows, one after another. They lie on the disk
between two runs of a program: whoever changes a number that a stage gives raises ARITHMETIC in `work`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import mlx.core as mx
import numpy as np

from elm_mlx.config import HEAD_NAME, ModelConfig
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.calibrate.layer import MATRICES, Passage
from elm_mlx.convert.calibrate.moments import Moments, moments_of
from elm_mlx.convert.calibrate.places import places
from elm_mlx.convert.calibrate.rounding import Parts, read_back, round_matrix
from elm_mlx.convert.output.pipeline import limit_freed_buffers
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import InvalidRequest
from elm_mlx.models import MODELS
from elm_mlx.models.blocks import Block
from elm_mlx.models.matrices import Linear
from elm_mlx.models.parameters import Parameters

BLOCK_ROWS = 4096  # that are rounded at once: fewer need less memory, and many fewer more time, as columns take turns
ROUNDING_COST = 10  # of a row, in the time that its product with the moments would take

States = dict[str, mx.array]


@dataclass
class Made:
    """What a stage has made so far: `parts` by tensor name. `tell` is called with the share of its `work` that is
    `done`, both counted as `Calibration.work` does."""

    work: int
    tell: Callable[[float], None]
    parts: Parts = field(default_factory=dict)
    done: int = 0

    def count(self, arrays: Iterable[mx.array], cost: int = 1) -> Iterator[mx.array]:
        """Gives out arrays [..., C] whose rows take `cost` times C² each; one is done when the caller comes for the
        next."""
        for array in arrays:
            yield array
            self.done += cost * array.size * array.shape[-1]
            self.tell(self.done / self.work)


class Calibration:
    """Rounds a model's matrices for the text of `windows`, stage by stage, with one layer in memory.

    `tensors` are the source's by name, `settings` say how each weight is stored (None: as it is, in `dtype`), and
    `windows` are sequences of ids. A stage depends on these and on the states before it alone, and gives the same
    bytes each time. Raises InvalidRequest where there are no ids, or some that the model does not have.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, LazyTensor],
        settings: Mapping[str, Quantization | None],
        dtype: mx.Dtype,
        windows: Sequence[Sequence[int]],
    ) -> None:
        self.config, self.tensors, self.settings, self.dtype = config, tensors, settings, dtype
        self.windows = [list(window) for window in windows if len(window)]
        self._check_ids()
        self.family = MODELS[type(config)]
        self.count = config.num_blocks + 2

    def names(self, stage: int) -> list[str]:
        """The weights whose stored parts a stage gives."""
        return [name for names in self._products(stage) for name in names if self.settings.get(name)]

    def work(self, stage: int) -> int:
        """About what a stage takes, in multiplications: C² for each input of a product of C columns, for its moments,
        and some times as many for each row that is rounded."""
        total = 0
        for names in self._products(stage):
            inputs = sum(map(len, self.windows)) if stage else 0
            rows = sum(self.tensors[name].shape[0] for name in names if self.settings.get(name))
            total += self.tensors[names[0]].shape[1] ** 2 * (inputs + ROUNDING_COST * rows)
        return total

    def begin(self) -> States:
        """The states before the first stage: there are none, as it makes them."""
        return {}

    def run(self, stage: int, states: States, tell: Callable[[float], None]) -> tuple[Parts, States]:
        """Runs a stage: (what its weights are stored as, by tensor name; the states after it). `tell` is called with
        the share of the stage that is done, 0 to 1. The states are taken out of `states`, so that none stay in memory
        that later ones replace. Raises NotFinite where they are NaN or infinite."""
        made = Made(self.work(stage), tell)
        with limit_freed_buffers(), places(self.config) as where:
            if stage == 0:
                after = self._embed(made)
            elif stage == self.count - 1:
                self._end(self._cut(states.pop("hidden")), made)
                after = {}
            else:
                passage = Passage(self._block(stage - 1), self._cut(states.pop("hidden")), where)
                after = self._layer(stage, passage, made)
            mx.eval(made.parts, after)
        tell(1.0)
        return made.parts, after

    def _products(self, stage: int) -> list[list[str]]:
        """The matrices that a stage is about, in lists of those that get the same inputs."""
        if stage == 0:
            return [] if self.config.tied else [[self.config.embedding_name]]
        if stage == self.count - 1:
            return [[self.config.embedding_name if self.config.tied else HEAD_NAME]]
        return [[f"{stem.format(stage - 1)}.weight" for stem in stems] for stems in MATRICES[self.config.family]]

    def _embed(self, made: Made) -> States:
        """The rows of all ids. An embedding beside a head is rounded before: its rows are looked up, not multiplied, so
        that every error in them costs alike."""
        name = self.config.embedding_name
        ids = mx.array([token for window in self.windows for token in window])  # [T]
        setting = self.settings.get(name)
        if self.config.tied or not setting:
            return {"hidden": self._floats(name, self.tensors[name].read()[ids])}
        self._round(name, Moments(np.eye(self.config.model_dim, dtype=np.float32)), made)
        return {"hidden": read_back(name, {part: array[ids] for part, array in made.parts.items()}, setting)}

    def _layer(self, stage: int, passage: Passage, made: Made) -> States:
        """The states after a layer whose matrices are rounded on the way."""
        for i, names in enumerate(self._products(stage)):
            moments = moments_of(made.count(passage.inputs(i)), names)
            passage.replace(i, Linear(mx.concatenate([self._round(name, moments, made) for name in names])))
        passage.finish()
        return {"hidden": mx.concatenate([h[0] for h in passage.states])}

    def _end(self, windows: list[mx.array], made: Made) -> None:
        """Rounds the head for the last states."""
        norm = self._read(f"{self.family.NORM}.weight")
        for name in self.names(self.count - 1):
            states = (mx.fast.rms_norm(h, norm, self.config.norm_eps) for h in windows)
            self._round(name, moments_of(made.count(states), [name]), made)

    def _round(self, name: str, moments: Moments, made: Made) -> mx.array:
        """Rounds a matrix, if it is to be quantized, and returns it as it will be read, float32 [R, C], not computed
        yet."""
        setting = self.settings.get(name)
        if not setting:
            return self._read(name)
        blocks = made.count(self.tensors[name].blocks(BLOCK_ROWS), ROUNDING_COST)
        parts = round_matrix(name, blocks, moments, setting, self.dtype)
        made.parts |= parts
        return read_back(name, parts, setting)

    def _read(self, name: str) -> mx.array:
        """A weight in float32, read whole."""
        return self._floats(name, self.tensors[name].read())

    def _floats(self, name: str, weight: mx.array) -> mx.array:
        """A weight, or rows of it, in float32: one that will be rounded as the source has it, any other as it will be
        stored."""
        return (weight if self.settings.get(name) else weight.astype(self.dtype)).astype(mx.float32)

    def _block(self, layer: int) -> Block:
        """A layer of the model as the source has it, in float32."""
        names = [name for name in self.config.weight_shapes() if f".layers.{layer}." in name]
        return self.family.block(self.config, layer, Parameters({n: self._read(n) for n in names}, None, mx.float32))

    def _cut(self, hidden: mx.array) -> list[mx.array]:
        """States [T, E] of all windows -> those of each, [1, L, E]."""
        ends = np.cumsum([0, *map(len, self.windows)]).tolist()
        return [hidden[None, begin:end] for begin, end in pairwise(ends)]

    def _check_ids(self) -> None:
        """An id beyond the embedding would read memory that is not its own."""
        ids = [token for window in self.windows for token in window]
        if not ids:
            raise InvalidRequest("There is no token to calibrate on. Take a longer text.")
        if not 0 <= min(ids) <= max(ids) < self.config.vocab_size:
            wrong = next(token for token in ids if not 0 <= token < self.config.vocab_size)
            raise InvalidRequest(f"The text to calibrate on holds the id {wrong}, and the model has ids from 0 to "
                                 f"{self.config.vocab_size - 1}: the tokenizer is another model's.")  # fmt: skip
