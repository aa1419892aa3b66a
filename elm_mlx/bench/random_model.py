"""A directory with a model of random weights, so that nobody downloads gigabytes to compare machines."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import sqrt
from pathlib import Path

import mlx.core as mx

from elm_mlx.bench.shapes import NARROW, SHAPES
from elm_mlx.config import ModelConfig, config_from_dict
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.output.config_file import output_config
from elm_mlx.demo import demo_directory
from elm_mlx.device.memory import check_memory
from elm_mlx.files import check_room, write_json
from elm_mlx.store.stored_form import quantize, stored_entries
from elm_mlx.store.weights import Writer


@contextmanager
def random_model(shape: str, bits: int | None = None, dtype: str | None = None, force: bool = False) -> Iterator[Path]:
    """A temporary directory in mlx-lm's layout with a model of this shape, floats in `dtype` (by default bfloat16, in
    the narrow shapes float32), in affine `bits` in groups of 64 if they are given. Its tokenizer is the demo's.

    Raises NotEnoughMemory, unless `force`, and DiskFull.
    """
    dtype = dtype or ("float32" if shape in NARROW else "bfloat16")
    quantization = Quantization(bits) if bits else None
    config = replace(config_from_dict(SHAPES[shape]), quantization=quantization)
    with tempfile.TemporaryDirectory(prefix="elm-mlx-bench-") as place:
        folder = Path(place)
        write_weights(folder, shape, config, getattr(mx, dtype), force)
        write_json(folder / "config.json", output_config(SHAPES[shape], config, quantization, dtype))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(demo_directory() / name, folder / name)
        yield folder


def write_weights(folder: Path, shape: str, config: ModelConfig, dtype: mx.Dtype, force: bool) -> None:
    """Writes one file, one tensor at a time in memory. Products with matrices (out, in) keep their input's size."""
    entries = stored_entries(config, dtype, lambda _: True)
    takes = sum(entry.nbytes for entry in entries.values())
    if not force:
        check_memory(shape, config, takes, 8 * dtype.size)
    check_room(shape, "Set TMPDIR to a folder on another disk.", (folder, takes))
    key = mx.random.key(0)
    with Writer(folder / "model.safetensors", entries) as writer:
        for name, form in config.weight_shapes().items():
            key, now = mx.random.split(key)
            spread = sqrt(3 / form[-1]) if len(form) == 2 else 0.0  # a variance of 1 / in; norms are 1
            weight = mx.random.uniform(-spread, spread, form, key=now) + (len(form) == 1)
            setting = config.quantization.of(name, form) if config.quantization else None
            for part, array in quantize(name, weight.astype(dtype), setting).items():
                writer.write(part, array)
