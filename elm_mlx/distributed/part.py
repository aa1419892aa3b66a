"""Which part of a model one rank holds, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TENSOR, PIPELINE = "tensor", "pipeline"
Kind = Literal["tensor", "pipeline"]


@dataclass(frozen=True)
class Part:
    """The part of rank `rank` where `ranks` machines hold a model together. With `kind` "tensor" each has its share of
    every layer's heads and feed-forward; with "pipeline" each has some whole layers."""

    kind: Kind
    rank: int
    ranks: int
