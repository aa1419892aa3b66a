"""Calibration in stages: the embedding's states, a layer after another, the head.

A stage rounds the matrices of one layer, each for the inputs that it gets where all that is before it is rounded
already, and takes the states of all windows to the layer's end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import mlx.core as mx
import numpy as np

from elm_mlx.config import HEAD_NAME, ModelConfig
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.calibrate.layer import MATRICES, Passage
from elm_mlx.convert.calibrate.moments import Moments, moments_of
from elm_mlx.convert.calibrate.rounding import Parts, round_matrix
from elm_mlx.convert.output.pipeline import limit_freed_buffers
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import InvalidRequest
from elm_mlx.models import MODELS
from elm_mlx.models.blocks import Block
from elm_mlx.models.matrices import Linear
from elm_mlx.models.parameters import Parameters

States = dict[str, mx.array]


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
        self.count = config.num_layers + 2

    def names(self, stage: int) -> list[str]:
        """The weights whose stored parts a stage gives."""
        return [name for name in self._weights(stage) if self.settings.get(name)]

    def begin(self) -> States:
        """The states before the first stage."""
        return {}

    def run(self, stage: int, states: States, tell: Callable[[float], None]) -> tuple[Parts, States]:
        """Runs a stage: (what its weights are stored as, by tensor name; the states after it). `tell` is called with
        the share of the stage that is done, 0 to 1."""
        parts: Parts = {}
        with limit_freed_buffers():
            if stage == 0:
                states = self._embed(parts)
            elif stage == self.count - 1:
                self._end(self._cut(states["hidden"]), parts)
                states = {}
            else:
                states = self._layer(stage - 1, self._cut(states["hidden"]), parts, tell)
            mx.eval(parts, states)
        tell(1.0)
        return parts, states

    def _weights(self, stage: int) -> list[str]:
        """The matrices that a stage is about."""
        if stage == 0:
            return [] if self.config.tied else [self.config.embedding_name]
        if stage == self.count - 1:
            return [self.config.embedding_name if self.config.tied else HEAD_NAME]
        return [name for names in self._products(stage - 1) for name in names]

    def _products(self, layer: int) -> list[list[str]]:
        """The matrices of a layer, in lists of those that get the same inputs."""
        return [[f"{stem.format(layer)}.weight" for stem in stems] for stems in MATRICES[self.config.family]]

    def _embed(self, parts: Parts) -> States:
        name = self.config.embedding_name
        weight = self._read(name)
        if not self.config.tied:
            weight = self._round([name], Moments(np.eye(weight.shape[1], dtype=np.float32)), parts)
        return {"hidden": mx.concatenate([weight[mx.array(window)] for window in self.windows])}

    def _layer(self, layer: int, windows: list[mx.array], parts: Parts, tell: Callable[[float], None]) -> States:
        products = self._products(layer)
        passage = Passage(self._block(layer), windows)
        for i, names in enumerate(products):
            passage.replace(i, Linear(self._round(names, moments_of(passage.inputs(i), names), parts)))
            tell((i + 1) / (len(products) + 1))
        passage.finish()
        return {"hidden": mx.concatenate([h[0] for h in windows])}

    def _end(self, windows: list[mx.array], parts: Parts) -> None:
        norm = self._read(f"{self.family.NORM}.weight")
        names = self._weights(self.count - 1)
        self._round(names, moments_of((mx.fast.rms_norm(h, norm, self.config.norm_eps) for h in windows), names), parts)

    def _round(self, names: list[str], moments: Moments, parts: Parts) -> mx.array:
        """Rounds matrices that get the same inputs, adds what they are stored as to `parts`, and returns them as they
        will be read, one under another."""
        matrices = []
        for name in names:
            matrix, setting = self._read(name), self.settings.get(name)
            if setting:
                stored, matrix = round_matrix(name, matrix, moments, setting, self.dtype)
                parts |= stored
            matrices.append(matrix)
        return mx.concatenate(matrices)

    def _read(self, name: str) -> mx.array:
        """A weight in float32: one that will be rounded as the source has it, any other as it will be stored."""
        weight = self.tensors[name].read()
        return (weight if self.settings.get(name) else weight.astype(self.dtype)).astype(mx.float32)

    def _block(self, layer: int) -> Block:
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
