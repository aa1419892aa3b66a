"""A tensor that is still on disk: what every reader yields and the pipeline consumes, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class LazyTensor:
    """Shape and type are known; `read()` brings the elements into memory, row-major, in `dtype`."""

    shape: tuple[int, ...]
    dtype: mx.Dtype
    read: Callable[[], mx.array]
