"""The tensors that one quantized matrix is stored as, found by their names, with checks of their shapes and types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np

from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint, Unsupported

WHOLE = {mx.int32, mx.uint32}
INDICES = {mx.int32, mx.int64}


@dataclass(frozen=True)
class Parts:
    """The tensors of the matrix `stem` by the end of their names; `where` is the checkpoint."""

    where: Path
    stem: str
    tensors: dict[str, LazyTensor]

    @property
    def name(self) -> str:
        """The name of the plain matrix."""
        return f"{self.stem}.weight"

    def matrix(self, part: str, kinds: set[mx.Dtype] | None = None) -> LazyTensor:
        """A part that has to be there: a matrix without an empty side, of one of these types, or of floats where none
        are given. Raises BadCheckpoint."""
        if part not in self.tensors:
            raise BadCheckpoint(f"{self.where} has {self.stem}.{next(iter(self.tensors))} and no {self.stem}.{part}. "
                                "Fetch it again, all of its files.")  # fmt: skip
        tensor = self.tensors[part]
        right = tensor.dtype in kinds if kinds else mx.issubdtype(tensor.dtype, mx.floating)
        if len(tensor.shape) != 2 or not prod(tensor.shape) or not right:
            raise self.wrong(f"{part} is {self.form(part)}, which no matrix of its kind has")
        return tensor

    def expect(self, part: str, shape: tuple[int, ...]) -> None:
        """Raises BadCheckpoint where a part, if it is there, has another shape."""
        if part in self.tensors and self.tensors[part].shape != shape:
            raise self.wrong(f"{part} is {self.form(part)}, and the other parts make it {shape}")

    def form(self, part: str) -> str:
        """Shape and type of a part, for people."""
        tensor = self.tensors[part]
        return f"{tensor.shape} of {str(tensor.dtype).removeprefix('mlx.core.')}"

    def wrong(self, what: str) -> BadCheckpoint:
        """Makes the error for parts that do not fit; `what` says which and why."""
        return BadCheckpoint(f"{self.where}: {self.stem}.{what}. Fetch it again, or take config.json and weights from "
                             "one repository.")  # fmt: skip

    def group_indices(self, part: str, columns: int, groups: int) -> np.ndarray | None:
        """The group of each column [columns], from a part that may be missing. Raises BadCheckpoint."""
        if part not in self.tensors:
            return None
        tensor = self.tensors[part]
        if tensor.shape != (columns,) or tensor.dtype not in INDICES:
            raise self.wrong(f"{part} is {self.form(part)}, and has to name a group for each of {columns} columns")
        indices = np.array(tensor.read()).astype(np.int64)
        if indices.min() == indices.max() == -1:  # compressed-tensors' way to say that there is no order
            return None
        if indices.min() < 0 or indices.max() >= groups:
            raise self.wrong(f"{part} names groups from {indices.min()} to {indices.max()}, and there are {groups}")
        return indices

    def refuse_bias(self) -> None:
        """Raises Unsupported for a bias that is not zero. Some writers add one of zeros to every matrix."""
        if (bias := self.tensors.get("bias")) and bool(mx.any(bias.read() != 0).item()):
            raise Unsupported(f"{self.where}: {self.stem} has a bias that is not zero, and elm-mlx runs matrices "
                              "without one.")  # fmt: skip


def matrices(where: Path, tensors: Mapping[str, LazyTensor], sign: str, parts: tuple[str, ...]) -> Iterator[Parts]:
    """The matrices that have a tensor STEM.`sign`, with those of their `parts` that there are."""
    for name in tensors:
        stem, _, last = name.rpartition(".")
        if last == sign and stem:
            there = {part: tensors[f"{stem}.{part}"] for part in (sign, *parts) if f"{stem}.{part}" in tensors}
            yield Parts(where, stem, there)


def regular_size(indices: np.ndarray) -> int | None:
    """How many columns a group has if the `indices` put them side by side, all groups alike but for a shorter last one;
    None where they do not."""
    size = int((indices == indices[0]).sum())
    return size if np.array_equal(indices, np.arange(len(indices)) // size) else None
