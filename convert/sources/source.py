"""An opened checkpoint: a configuration, and tensors that are still on disk."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.config import LlamaConfig, ModelConfig, config_from_dict
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.sources.files import checkpoint_files
from elm_mlx.convert.sources.mlx import Settings
from elm_mlx.convert.sources.shared import find_shared, is_shared, unshare
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.tokenizer.within import Within
from elm_mlx.errors import InvalidRequest


@dataclass(frozen=True)
class Source:
    """An opened checkpoint: `where` is what the user named, `directory` where its configuration lies.

    `file_names` are those of the files that it is read from. `settings` says how the source quantizes its weights; the
    `tensors` are plain even then, and `config` is that of a plain model. `dropped` names rows that are left out. Where
    tensors are packed, and are kept so, floats are stored in `kept_dtype`. `tokenizer` is the one that the weights'
    file holds; then no file beside it counts. `name` is what the model is called, where that is not its directory.
    """

    where: Path
    directory: Path
    file_names: list[str]
    layout: str
    raw_config: dict[str, Any]
    config: ModelConfig
    tensors: dict[str, LazyTensor]
    naming: str = "hugging-face"
    dropped: list[str] = field(default_factory=list)
    settings: Settings = field(default_factory=dict)
    kept_dtype: str = "float16"
    tokenizer: Within | None = None
    name: str | None = None

    @property
    def files(self) -> list[Path]:
        """The files of the source that a conversion reads, without those of the tokenizer."""
        names = self.file_names if self.tokenizer else [*self.file_names, "generation_config.json"]
        return [file for name in names if (file := self.directory / name).is_file()]

    @property
    def family_layout(self) -> tuple[str, str]:
        """The key into the rename rules: family and naming."""
        return self.config.family, self.naming

    def with_one_ffn(self) -> Source:
        """The source, with the feed-forward once where all layers of a Llama have one. Raises BadCheckpoint."""
        is_llama = self.config.family == LlamaConfig.family
        once = find_shared(self.where, self.raw_config, self.tensors) if is_llama else None
        if once is None:
            return self
        return replace(
            self,
            layout=f"{self.layout}, one feed-forward for all layers,",
            raw_config=once.raw_config,
            config=config_from_dict(once.raw_config),
            tensors=once.tensors,
            dropped=[f"{once.copies} copies of the feed-forward"] if once.copies else [],
        )

    def unshared(self) -> Source:
        """The source as a plain Llama, each layer with its own weights. Raises InvalidRequest where none are shared."""
        if not (isinstance(self.config, LlamaConfig) and self.config.is_shared):
            raise InvalidRequest(f"No layers of {self.where} share weights.", "Leave {unshare} out.")
        return replace(self, config=self.config.unshared(), tensors=unshare(self.config, self.tensors))

    def like(self, config: ModelConfig) -> Source:
        """The source, unshared where `config`, that of a conversion of it, is that of a model without sharing."""
        return self.unshared() if is_shared(self.config) and not is_shared(config) else self

    def is_already(self, quantization: Quantization | None, dtype: mx.Dtype, files: list[str] | None = None) -> bool:
        """Whether the source is what a conversion would write: an MLX directory that runs, quantized so or plain in
        `dtype`, and in these `files` where they are given."""
        if not self.layout.startswith("MLX") or not (self.directory / "tokenizer.json").is_file():
            return False
        if files is not None and files != sorted(checkpoint_files(self.where).files):
            return False
        wanted = {name: quantization.of(name, t.shape) for name, t in self.tensors.items()} if quantization else {}
        if self.settings or wanted:
            return self.settings == {name: setting for name, setting in wanted.items() if setting}
        return all(tensor.dtype == dtype for tensor in self.tensors.values())
