"""A stand-in for the arithmetic of a calibration: it rounds, quickly, and what it gives depends on all that a real one
depends on, the text and every state before it. So a resumed run that took anything wrong gives other bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.store.stored_form import quantize

Arrays = dict[str, mx.array]


class RoundingStages:
    """A stage for each layer, and one for the embedding at the end; the weights are rounded a little larger than they
    are, by what the states say."""

    begun = 0  # stages, of all that were made

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, LazyTensor],
        settings: Mapping[str, Quantization | None],
        dtype: mx.Dtype,
        windows: Sequence[Sequence[int]],
    ) -> None:
        self.tensors, self.settings, self.dtype, self.windows = tensors, settings, dtype, windows
        self.count = config.num_layers + 1

    def names(self, stage: int) -> list[str]:
        layer = f".layers.{stage}."
        own = (n for n in self.tensors if (layer in n if stage < self.count - 1 else ".layers." not in n))
        return [name for name in own if self.settings[name]]

    def work(self, stage: int) -> int:
        return 1

    def begin(self) -> Arrays:
        return {"hidden": mx.array([token for window in self.windows for token in window], dtype=mx.float32) / 512}

    def run(self, stage: int, states: Arrays, tell: Callable[[float], None]) -> tuple[Arrays, Arrays]:
        type(self).begun += 1
        larger = 1 + 0.1 * states["hidden"].mean().item()  # type: ignore[operator]
        parts: Arrays = {}
        for name in self.names(stage):
            parts |= quantize(name, (self.tensors[name].read() * larger).astype(self.dtype), self.settings[name])
            tell(0.5)
        after = states["hidden"] * 0.9 + mx.arange(states["hidden"].size) / 10_000 + float(len(parts))
        return parts, {"hidden": after}
