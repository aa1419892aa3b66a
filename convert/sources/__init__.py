"""Opens a checkpoint of any layout: a directory or a file becomes a configuration and tensors that are still on disk.

The names of the files, config.json and the names of the tensors decide which layout it is, never the directory's name.
Where several layouts lie in one directory, Hugging Face's comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.config import GuestConfig, LlamaConfig, ModelConfig, config_from_dict, names_guest
from elm_mlx.config.foreign import as_plain
from elm_mlx.config.quantization import Quantization, read_quantization
from elm_mlx.config.values import CONFIG, MAX_WIDTH, Values
from elm_mlx.convert.gguf.names import arrange
from elm_mlx.convert.gguf.settings import raw_config as gguf_config
from elm_mlx.convert.gguf.special import sampling
from elm_mlx.convert.gguf.vocabulary import read_tokenizer
from elm_mlx.convert.keymap import AUTHORITIES
from elm_mlx.convert.sources import corenet, corenet_adapters, gguf, guest, hugging_face, meta
from elm_mlx.convert.sources.mlx import Settings, expand_quantized, is_mlx
from elm_mlx.convert.sources.quantized import Plain, read_quantized, settings_of
from elm_mlx.convert.sources.shared import find_shared, is_shared, unshare
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.tokenizer.within import Within
from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import InvalidRequest, NotFound, Unsupported
from elm_mlx.files import optional_json, read_json, reading
from elm_mlx.store.other_names import unwrap
from elm_mlx.store.stored_form import refuse_lost_quantization
from elm_mlx.store.weight_files import TORCH_SUFFIXES, WeightFiles, others_among, weight_files
from elm_mlx.store.weights import Entry, gather

NOWHERE = " Fetch them, or give the directory that holds them."


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


def open_source(where: Path, *, rope_factor: float | None = None) -> Source:
    """Opens a checkpoint directory, or one weights file: reads headers, and only the tensors that decide a setting.

    `rope_factor` is for Meta's layout, whose files do not say it. Raises NotFound, BadCheckpoint, Unsupported, and
    InvalidRequest where there are several checkpoints to choose from or `rope_factor` means nothing.
    """
    with reading(where):
        there = where.exists()
    if not there:
        raise NotFound(f"There is no file or directory {where}. Give a checkpoint's directory, or a weights file "
                       "beside its config.json.")  # fmt: skip
    directory = where if where.is_dir() else where.parent
    weights = checkpoint_files(where)
    if gguf.is_gguf(weights.files[0]):
        return open_gguf(where, directory, weights.files, rope_factor)
    if meta.CONSOLIDATED.fullmatch(weights.files[0]):
        return open_meta(where, directory, weights.files, rope_factor)
    if rope_factor is not None:
        raise InvalidRequest("", "{rope_factor} is for Meta's own layout (params.json); elsewhere config.json says it. "
                                 "Leave it out.")  # fmt: skip
    return open_files(where, directory, weights)


def checkpoint_files(where: Path) -> WeightFiles:
    """The weights files to read; there is at least one. Raises as `open_source`."""
    if where.is_file():
        if gguf.is_gguf(where.name):
            return WeightFiles(gguf.files(where))
        if where.suffix != ".safetensors" and where.suffix not in TORCH_SUFFIXES:
            raise Unsupported(f"{where} is no file of weights. Give a .safetensors, .bin, .pt, .pth or .gguf file, or "
                              "a directory.")  # fmt: skip
        return WeightFiles(meta.files(where.parent) if meta.CONSOLIDATED.fullmatch(where.name) else [where.name])
    if (found := weight_files(where)).files:
        return found
    if files := meta.files(where) or corenet.files(where) or gguf.files(where):
        return WeightFiles(files)
    if (where / "adapter_config.json").exists():
        raise hugging_face.adapter_refusal(where, "adapter_config.json")
    below = f" Meta's files may lie in {where / 'original'}." if (where / "original").is_dir() else ""
    below += others_among([file.name for file in where.iterdir()])
    raise NotFound(f"There are no weights in {where}: no safetensors, no pytorch_model.bin, no index, no "
                   f"consolidated.00.pth, no .pt, no .gguf.{below or NOWHERE}")  # fmt: skip


def open_files(where: Path, directory: Path, weights: WeightFiles) -> Source:
    """Opens Hugging Face's layout or CoreNet's, plain or quantized by MLX."""
    tensors, merged = corenet_adapters.merge(where, gather(directory, weights.files, hugging_face.read_file))
    hugging_face.refuse_adapter(where, tensors)
    raw = optional_json(directory / "config.json")
    if merged and corenet_adapters.HEAD in tensors and "model_type" in raw:
        raw |= corenet_adapters.UNTIED
    read = ["config.json", *weights.all_files]
    if names_guest(raw):
        other = GuestConfig.from_values(Values(raw))
        named, tensors = guest.open_guest(where, directory, weights, other)
        return Source(where, directory, read, f"Hugging Face, {other.model_type}", raw, named, tensors)
    foreign, settings_files = settings_of(directory, raw, tensors)
    if foreign.raw:
        return open_quantized(where, raw, read_quantized(where, foreign, tensors), [*settings_files, *read])
    quantization = read_quantization(Values(raw))
    if quantization is None:
        refuse_plain_config(directory / "config.json", raw, tensors)
    tensors, settings = expand_quantized(where, tensors, quantization)
    first = directory / weights.files[0]
    if corenet.is_corenet(tensors):
        opened = open_corenet(where, first, raw, tensors, read)
        return replace(opened, layout=f"{opened.layout} with {merged}, merged") if merged else opened
    raw = raw or read_json(directory / "config.json")
    config, layout = replace(config_from_dict(raw), quantization=None), layout_name(first, settings)
    source = Source(where, directory, read, layout, raw, config, tensors, settings=settings)
    return source if layout.startswith("MLX") else source.with_one_ffn()


def open_quantized(where: Path, raw: dict[str, Any], plain: Plain, read: list[str]) -> Source:
    """Opens what another library has quantized; `raw` is the object of config.json, `read` names the files."""
    directory = where if where.is_dir() else where.parent
    raw = as_plain(raw or read_json(directory / "config.json"))
    config = config_from_dict(raw)
    return Source(
        where, directory, read, plain.layout, raw, config, plain.tensors,
        dropped=plain.dropped, kept_dtype=plain.kept_dtype,
    )  # fmt: skip


def refuse_plain_config(file: Path, raw: dict[str, Any], tensors: Mapping[str, LazyTensor]) -> None:
    """Refuses quantized tensors beside a config.json, the object `raw`, that says nothing of quantization. Raises as
    `refuse_lost_quantization`."""
    stored = {unwrap(name): Entry(tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    shapes = config_from_dict(raw).weight_shapes() if "model_type" in raw else {}
    refuse_lost_quantization(file, stored, shapes)


def open_corenet(
    where: Path, file: Path, raw: dict[str, Any], tensors: dict[str, LazyTensor], read: list[str]
) -> Source:
    """Opens tensors with CoreNet's names; `raw` is a whole config.json, or Apple's short one, or empty."""
    authority = CONFIG
    if "model_type" not in raw:
        authority = AUTHORITIES["corenet"]
        facts, yamls = (raw, []) if raw else corenet.yaml_facts(file.parent)
        raw, read = corenet.raw_config(where, tensors, facts), [*yamls, *read]
    config = replace(config_from_dict(raw, authority), quantization=None)
    tensors, dropped = corenet.drop_padding(tensors, config.vocab_size)
    layout = "CoreNet" if file.suffix in TORCH_SUFFIXES else "Apple's MLX example"
    return Source(where, file.parent, read, layout, raw, config, tensors, "corenet", dropped)


def layout_name(file: Path, settings: Settings) -> str:
    """What to call the layout of a weights file that has Hugging Face's names."""
    if settings:
        return f"MLX, {'/'.join(map(str, sorted({setting.bits for setting in settings.values()})))}-bit"
    if is_mlx(file):
        return "MLX"
    return f"Hugging Face, {'PyTorch' if file.suffix in TORCH_SUFFIXES else 'safetensors'}"


def open_meta(where: Path, directory: Path, files: list[str], rope_factor: float | None) -> Source:
    """Opens Meta's own layout: all shards; they are joined when their tensors are read."""
    authority = AUTHORITIES["meta"]
    params = Values(read_json(directory / authority), authority)
    meta.refuse_unsupported_kinds(directory, params)
    shards = [read_torch_file(directory / name) for name in files]
    tensors = meta.join_shards(where, shards, params.integer("dim", 4096, MAX_WIDTH))
    raw = meta.raw_config(params, tensors, shards, rope_factor)
    config = config_from_dict(raw, authority)
    layout = f"Meta, {len(shards)} shard{'s' * (len(shards) > 1)}"
    read = [authority, *files]
    return Source(where, directory, read, layout, raw, config, meta.arrange_heads(tensors, config), "meta")


def open_gguf(where: Path, directory: Path, files: list[str], rope_factor: float | None) -> Source:
    """Opens the GGUF files of one model. Raises as `open_source`."""
    if rope_factor is not None:
        raise InvalidRequest("", "{rope_factor} is for Meta's own layout (params.json); a GGUF file says it itself. "
                                 "Leave it out.")  # fmt: skip
    header = gguf.read_series(directory, files)
    first = directory / files[0]
    raw = gguf_config(str(first), header)
    config = config_from_dict(raw, str(first))
    tensors = arrange(first, header.tensors, config)
    kinds = sorted({tensor.kind.name for tensor in header.tensors.values() if len(tensor.shape) > 1})
    within = Within(first, partial(read_tokenizer, first, header.metadata), sampling(header.metadata))
    return Source(where, directory, files, f"GGUF, {'/'.join(kinds)}", raw, config, tensors, "gguf",
                  tokenizer=within, name=gguf.model_name(files[0]))  # fmt: skip
