"""Opens a checkpoint of any layout: a directory or a file becomes a configuration and tensors that are still on disk.

The names of the files, config.json and the names of the tensors decide which layout it is, never the directory's name.
Where several layouts lie in one directory, Hugging Face's comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from elm_mlx.config import GuestConfig, config_from_dict, names_guest
from elm_mlx.config.foreign import as_plain
from elm_mlx.config.quantization import read_quantization
from elm_mlx.config.values import CONFIG, MAX_WIDTH, Values
from elm_mlx.convert.gguf.names import arrange
from elm_mlx.convert.gguf.settings import raw_config as gguf_config
from elm_mlx.convert.gguf.special import sampling
from elm_mlx.convert.gguf.vocabulary import read_tokenizer
from elm_mlx.convert.keymap import AUTHORITIES
from elm_mlx.convert.sources import corenet, corenet_adapters, gguf, guest, hugging_face, meta
from elm_mlx.convert.sources.files import checkpoint_files
from elm_mlx.convert.sources.mlx import Settings, expand_quantized, is_mlx
from elm_mlx.convert.sources.quantized import Plain, read_quantized, settings_of
from elm_mlx.convert.sources.source import Source
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.tokenizer.within import Within
from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.files import optional_json, read_json, reading
from elm_mlx.store.other_names import unwrap
from elm_mlx.store.stored_form import refuse_lost_quantization
from elm_mlx.store.weight_files import TORCH_SUFFIXES, WeightFiles
from elm_mlx.store.weights import Entry, gather

__all__ = ["Source", "open_source"]


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
