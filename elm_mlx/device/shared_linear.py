"""A product with a large matrix, shared by several streams of MLX's CPU backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from elm_mlx.device.side_by_side import is_beside

if TYPE_CHECKING:
    from elm_mlx.device.execution import DeviceStream

LARGE = 4 << 20  # bytes of a matrix: below this, giving a share to another stream costs more than it gains


class SharedLinear:
    """A matrix of floats [out, in], a models.matrices.Matrix. Each stream multiplies its own share of the matrix's
    rows, unless the matrix is small, or the streams compute other things side by side (chunks of a prompt)."""

    def __init__(self, weight: mx.array, streams: Sequence[DeviceStream]) -> None:
        self.weight, self.streams = weight, streams if weight.nbytes >= LARGE else ()
        self.ends = [len(weight) * i // len(streams) for i in range(1, len(streams))]

    def __call__(self, x: mx.array) -> mx.array:
        if not self.streams or is_beside():
            return x @ self.weight.T  # [..., in] -> [..., out]
        shares = zip(mx.split(self.weight.T, self.ends, axis=1), self.streams, strict=True)
        return mx.concatenate([mx.matmul(x, share, stream=stream) for share, stream in shares], axis=-1)

    def rows(self, ids: mx.array) -> mx.array:
        """Looks up the rows of `ids`: [B, L] -> [B, L, in]."""
        return self.weight[ids]
