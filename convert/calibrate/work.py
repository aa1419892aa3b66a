"""A calibration that is planned: what it reads and will take, and doing it, stage by stage, from where one was stopped.

The stages themselves are arithmetic (`stages`); here is what is kept of them on the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from elm_mlx.arguments import Progress
from elm_mlx.config import ModelConfig
from elm_mlx.convert.calibrate.given_text import Sample
from elm_mlx.convert.calibrate.saved import Arrays, SavedStages, saved_stages
from elm_mlx.convert.finite import is_finite
from elm_mlx.convert.keymap import Matched
from elm_mlx.convert.output.pipeline import Parts, Shards, check_peaks, peaks
from elm_mlx.device.blas import fast_blas
from elm_mlx.errors import NotFinite

METHOD = "error compensation (GPTQ)"
ARITHMETIC = 2  # raise it with each change of a number that a stage gives: else a run goes on with those of another
PARTS_OF_PROGRESS = 10_000
COPIES = 3  # of a layer's weights that are in memory at a time, in float32
MOMENT_BYTES = 36  # that each moment takes while their inverse is computed, in float32 and float64


class Stages(Protocol):
    """The arithmetic of a calibration, as `stages.Calibration` has it. A stage depends on nothing but the source,
    the windows of text and the states before it."""

    count: int

    def names(self, stage: int) -> list[str]:
        """The weights whose stored parts this stage gives."""

    def work(self, stage: int) -> int:
        """How much this stage has to do, beside the others."""

    def begin(self) -> Arrays:
        """The states before the first stage, by name."""

    def run(self, stage: int, states: Arrays, tell: Callable[[float], None]) -> tuple[Arrays, Arrays]:
        """(what the stage's weights are stored as, by tensor, the states after the stage). `tell` is called with the
        share of the stage that is done."""


@dataclass(frozen=True)
class Calibration:
    """A calibration of the weights `matched` on the text `sample`; they will be stored as `shards` says."""

    config: ModelConfig
    matched: Matched
    shards: Shards
    sample: Sample
    stages: Stages

    @property
    def names(self) -> list[str]:
        """The weights that are calibrated, in the order of the stages."""
        return [name for stage in range(self.stages.count) for name in self.stages.names(stage)]

    def record(self) -> dict[str, Any]:
        """The object `calibration` of conversion.json. `rounded` names the quantized weights that are rounded all the
        same."""
        calibrated = set(self.names)
        rounded = [name for name, how in self.shards.settings.items() if how and name not in calibrated]
        return {
            "method": METHOD,
            "text": self.sample.record(),
            "tokens": self.sample.tokens,
            "windows": len(self.sample.windows),
            "rounded": rounded,
        }

    def facts(self) -> dict[str, Any]:
        """What the calibrated weights come from beside the source and the form; the ids stand for text and
        tokenizer. Sums differ by the BLAS, and by numpy, which has one of its own."""
        ids = hashlib.sha256(repr(self.sample.windows).encode()).hexdigest()
        return {"arithmetic": ARITHMETIC, "ids": ids, "blas": fast_blas(), "numpy": np.__version__}

    @property
    def state_bytes(self) -> int:
        """Bytes of the states between two stages, [T, E] in float32 for the T tokens of all windows."""
        return 4 * self.sample.tokens * self.config.model_dim

    @property
    def disk(self) -> int:
        """The most bytes that the stages take on the disk beside the output: all parts, and states before the output
        is written."""
        parts = sum(map(self.shards.size, self.names))
        return parts + max(0, 2 * self.state_bytes - self.shards.nbytes)

    @property
    def memory(self) -> int:
        """The most bytes of memory that a stage takes, about: the states before, in and after it, some copies of a
        layer's weights in float32, and the moments of its widest matrix. Embedding and head are rounded by rows."""
        shapes = self.config.weight_shapes()
        layers = (f".layers.{number}." for number in range(self.config.num_blocks))
        largest = max(sum(prod(shape) for name, shape in shapes.items() if layer in name) for layer in layers)
        widest = max(shape[1] for shape in shapes.values() if len(shape) == 2)
        return 3 * self.state_bytes + COPIES * 4 * largest + MOMENT_BYTES * widest**2

    def describe(self, done: int) -> dict[str, Any]:
        """Describes it in plain JSON; `done` is how many of the `stages` a run before has left, `whole_text` whether
        the text has no more tokens than are read."""
        about = {"stages": self.stages.count, "done": done, "disk": self.disk, "whole_text": self.sample.is_whole}
        return self.record() | about

    @contextmanager
    def run(self, folder: Path, fingerprint: str, progress: Progress | None) -> Iterator[Parts]:
        """Runs the stages that `folder` does not hold yet, keeps each there, and yields readers of what the weights are
        stored as. `progress` is called with (parts of the work done, in all).

        Raises NotFinite where a weight of the source, or what is made of it, is no number.
        """
        with saved_stages(folder, fingerprint, self.stages.count) as saved:
            if not saved.done:
                check_source(self.matched, self.shards)
            self._run_stages(saved, progress)
            yield {
                name: partial(read_parts, saved, stage, list(self.shards.stored[name]))
                for stage in range(self.stages.count)
                for name in self.stages.names(stage)
            }

    def _run_stages(self, saved: SavedStages, progress: Progress | None) -> None:
        sizes = [self.stages.work(stage) + 1 for stage in range(self.stages.count)]

        def tell(share: float) -> None:
            if progress:
                reached = (sum(sizes[: saved.done]) + share * sum(sizes[saved.done : saved.done + 1])) / sum(sizes)
                progress(int(PARTS_OF_PROGRESS * reached), PARTS_OF_PROGRESS)

        tell(0.0)
        if saved.done == self.stages.count:
            return
        states = saved.states() if saved.done else self.stages.begin()
        while saved.done < self.stages.count:
            parts, states = self.stages.run(saved.done, states, tell)
            self._check_parts(saved.done, parts)
            saved.add(parts, states)
            tell(0.0)
            del parts
            mx.clear_cache()

    def _check_parts(self, stage: int, parts: Arrays) -> None:
        """Checks that a stage gives what its weights are to be stored as. Raises NotFinite."""
        expected = self.shards.entries(self.stages.names(stage))
        found = {part: (array.dtype, array.shape) for part, array in parts.items()}
        if found != {part: (entry.dtype, entry.shape) for part, entry in expected.items()}:
            raise ValueError(f"stage {stage} gives {found}, not {expected}")
        for part, array in parts.items():
            if mx.issubdtype(array.dtype, mx.floating) and not is_finite(array):
                raise NotFinite(f"Calibrating {part} gave NaN or infinity: the model's own states on this text are too "
                                "large.", "Give another text, or leave {calibrate} out.")  # fmt: skip


def read_parts(saved: SavedStages, stage: int, parts: list[str]) -> Arrays:
    """Reads these tensors of a stage that is done."""
    arrays = saved.parts(stage)
    return {part: arrays[part] for part in parts}


def check_source(matched: Matched, shards: Shards) -> None:
    """Raises NotFinite for a weight of the source that is NaN or infinite, which would spoil all others, and
    BadCheckpoint for one that would become so."""
    for name, tensor in matched.tensors.items():
        for rows in tensor.blocks():
            check_peaks(matched.names[name], peaks(rows, shards), shards.dtype)
