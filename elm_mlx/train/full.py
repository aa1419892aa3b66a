"""A model's own floats as what is trained, and the directory of the model that comes of it.

They are trained in float32, whatever they are stored in: a small step would be lost in a type of few digits. The model
computes in its own type, and what is written has the types of the base.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, MutableMapping
from math import prod
from pathlib import Path

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.convert.output.config_file import output_config
from elm_mlx.convert.output.path_guards import refuse_link_out
from elm_mlx.files import check_room, disk_errors, read_json, whole_file, write_json, write_whole
from elm_mlx.models import MODELS
from elm_mlx.models.blocks import Block
from elm_mlx.models.matrices import Product, SideBySide
from elm_mlx.models.model import Model
from elm_mlx.models.parameters import Parameters
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.store.adapters.write import base_metadata
from elm_mlx.store.layout import small_files
from elm_mlx.store.load import load_arrays
from elm_mlx.store.side_files import TEMPLATE, file_names
from elm_mlx.store.tensors import stored_dtype
from elm_mlx.store.weights import DTYPE_NAMES, MLX_METADATA
from elm_mlx.train.checkpoint import write_tensors
from elm_mlx.train.training import Arrays

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
ANOTHER = "Name another {output}."


class Apart(Parameters):
    """Parameters of which each matrix stays by itself, as to join them would copy them in each step."""

    def fuse(self, *names: str) -> Product:
        """The product of one input with several matrices."""
        return SideBySide([self.linear(name) for name in names])


class Taken(dict[str, mx.array]):
    """Arrays by name, which notes the names of those that are taken out."""

    def __init__(self, arrays: Mapping[str, mx.array]) -> None:
        super().__init__(arrays)
        self.names: list[str] = []

    def pop(self, name: str, *default: mx.array) -> mx.array:  # type: ignore[override]
        """Takes an array out."""
        self.names.append(name)
        return super().pop(name, *default)


class FullArrays:
    """The floats of the model in a directory, by their names in its files; a tied embedding is there once.

    With `layers` only those of the last ones are trained. `dtype` is what the model computes in (None: as it is
    stored). Nothing is read before it is needed. `template` is the text of a chat template that the written model gets.
    Raises as `load_arrays`.
    """

    def __init__(
        self,
        directory: Path,
        config: ModelConfig,
        dtype: mx.Dtype | None,
        layers: int | None = None,
        template: str | None = None,
    ) -> None:
        arrays, _ = load_arrays(directory, config)
        self.directory, self.config, self.template = directory, config, template
        self.dtype = dtype or stored_dtype(arrays, config)
        self.stored = {name: arrays[name].dtype for name in config.weight_shapes() if name in arrays}
        self.family = MODELS[type(config)]
        self._layers = {layer: self._taken(layer, arrays) for layer in range(config.num_blocks)}
        chosen = set(self.stored) if layers is None else self._last(layers)
        self._kept = {name: array for name, array in arrays.items() if name not in chosen}
        self._begin = {name: arrays[name] for name in self.stored if name in chosen}

    def begin(self, key: mx.array) -> Arrays:
        """The arrays at the beginning, not read yet. They are given once."""
        begun, self._begin = self._begin, {}
        return {name: array.astype(mx.float32) for name, array in begun.items()}

    def held(self) -> int:
        """Bytes of weights that the model holds beside what is trained: what is not, and copies in the type that it
        computes in, where that is not float32."""
        trained = sum(prod(shape) for name, shape in self.config.weight_shapes().items() if name not in self._kept)
        copies = 0 if self.dtype == mx.float32 else trained * self.dtype.size
        return copies + sum(array.size for array in self._kept.values()) * self.dtype.size

    def base(self, begun: Arrays) -> Model:
        """The model as it is before it is trained."""
        return self.with_arrays(begun)

    def with_arrays(self, arrays: Arrays) -> Model:
        """The model that computes with these arrays."""
        return self.family(self.config, self._parameters({**self._kept, **arrays}))

    def layer_names(self, layer: int) -> list[str]:
        """The names of the trained arrays that a layer computes with."""
        return [name for name in self._layers[layer] if name not in self._kept]

    def block(self, layer: int, arrays: Arrays) -> Block:
        """A layer that computes with its arrays."""
        kept = {name: self._kept[name] for name in self._layers[layer] if name in self._kept}
        return self.family.block(self.config, layer, self._parameters({**kept, **arrays}))

    def write(self, output: Path, arrays: Arrays, base: Base) -> None:
        """Writes the model: its weights first and its config.json last, so that it runs once all is there. Raises
        DiskFull, ElmError, BadCheckpoint."""
        tensors = {name: {**self._kept, **arrays}[name].astype(dtype) for name, dtype in self.stored.items()}
        check_room(output, ANOTHER, (output, sum(array.nbytes for array in tensors.values())))
        write_tensors(output / WEIGHTS, tensors, MLX_METADATA | base_metadata(base))
        for name in small_files(file_names(self.directory)):
            if name != CONFIG:
                copy_whole(self.directory / name, output / name)
        with disk_errors(f"{output} cannot be written", ANOTHER):
            if self.template is not None:
                write_whole(output / TEMPLATE, self.template)
            dtype = TYPES[DTYPE_NAMES[self.stored[self.config.embedding_name]]]
            with whole_file(output / CONFIG) as beside:
                write_json(beside, output_config(read_json(self.directory / CONFIG), self.config, None, dtype))

    def _parameters(self, arrays: MutableMapping[str, mx.array]) -> Parameters:
        return Apart(arrays, None, self.dtype)

    def _taken(self, layer: int, arrays: Arrays) -> list[str]:
        """The names of the arrays that a layer is built from."""
        taken = Taken(arrays)
        self.family.block(self.config, layer, self._parameters(taken))
        return taken.names

    def _last(self, layers: int) -> set[str]:
        """The names of the arrays of the last layers."""
        return {name for layer in range(self.config.num_blocks - layers, self.config.num_blocks)
                for name in self._layers[layer]}  # fmt: skip


def copy_whole(file: Path, copy: Path) -> None:
    """Copies a file, whole or not at all. Raises BadCheckpoint for a link out of its folder, and DiskFull."""
    refuse_link_out(file)
    with disk_errors(f"{copy} cannot be written", ANOTHER):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(copy) as beside:
            shutil.copyfile(file, beside)
