"""What a merge will do: which matrices get sums, from which floats, and how each is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.keymap import Matched, match
from elm_mlx.convert.merge.float_source import FloatSource, check_same_model, find_floats, open_floats
from elm_mlx.convert.output.pipeline import Parts, Shards, plan_shards
from elm_mlx.convert.sources import Source, open_source
from elm_mlx.convert.sums import with_sums
from elm_mlx.errors import InvalidRequest
from elm_mlx.store.adapters.adapter_file import AdapterFile
from elm_mlx.store.adapters.read import check_base, read_adapter
from elm_mlx.store.load import load_arrays, read_config
from elm_mlx.store.stored_form import stored_parts
from elm_mlx.store.tensors import stored_dtype
from elm_mlx.store.weights import Entry

EIGHT_BIT, FLOATS = "8-bit", "floats"
KEEPS = EIGHT_BIT, FLOATS  # how adapted matrices are stored that cannot be quantized once from floats
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class MergePlan:
    """A model, an adapter, and what becomes of each weight.

    `base` is the open model, whose weights `own` has, plain; `matched` has the weights to write, with the sums in those
    of them that are `adapted`. These are read from `floats`, or where it is None from the model itself, `why` says for
    what reason (None where the model's own are floats). `quantization` is that of the output.
    """

    base: Source
    config: ModelConfig
    adapter: AdapterFile
    own: Matched
    matched: Matched
    adapted: list[str]
    floats: FloatSource | None
    why: str | None
    keep: str
    quantization: Quantization | None
    shards: Shards

    def kept(self) -> Parts:
        """Readers of the weights that have no sum: they are written as they are stored, and never rounded again."""
        stored, _ = load_arrays(self.base.directory, self.config)
        names = [name for name in self.shards.stored if name not in self.adapted]
        return {name: partial(take, stored, list(self.shards.stored[name])) for name in names}

    def unmerged(self) -> dict[str, Any]:
        """The model's own weights with the adapter beside them, as one matrix each."""
        return dict(with_sums(self.own.tensors, self.adapter.arrays))


def take(stored: dict[str, mx.array], parts: list[str]) -> dict[str, mx.array]:
    """Takes the parts of a weight out, so that they are freed once they are written."""
    return {part: stored.pop(part) for part in parts}


def plan_merge(directory: Path, adapter: Path, source: Path | None, keep: str | None, force: bool) -> MergePlan:
    """Plans a merge. Raises as `elm_mlx.convert.merge.merge`."""
    refuse_contradictions(source, keep)
    config = read_config(directory)
    base = open_source(directory)
    own = match(base.config, base.family_layout, base.tensors, directory)
    found = read_adapter(adapter, config)
    if not force:
        check_base(found, directory)
    stored, _ = load_arrays(directory, config)
    adapted = [f"{name}.weight" for name in found.arrays]
    rounded = [name for name in adapted if f"{name.removesuffix('weight')}scales" in stored]
    floats, why = choose_floats(directory, config, source, keep) if rounded else no_floats(source, keep, directory)
    if floats:
        check_same_model(floats, own.tensors, rounded)
    from_floats = {name: floats.matched.tensors[name] for name in rounded} if floats else {}
    how = config.quantization if rounded else None
    eight = [name for name in rounded if not floats or (how and is_by_rows(how, name))]
    own_setting = config.quantization if any(name.endswith(".scales") for name in stored) else None
    quantization = kept_settings(how, eight, config, keep or EIGHT_BIT) if how and eight else own_setting
    shards = plan_stored(config, quantization, stored, adapted, {*rounded})
    tensors = with_sums({**own.tensors, **from_floats}, found.arrays)
    matched = replace(own, tensors=tensors)
    return MergePlan(base, config, found, own, matched, adapted, floats, why, keep or EIGHT_BIT, quantization, shards)


def refuse_contradictions(source: Path | None, keep: str | None) -> None:
    """Raises InvalidRequest for options that mean nothing together or at all."""
    if keep not in (None, *KEEPS):
        raise InvalidRequest(f"keep is {keep!r}; it must be one of {', '.join(KEEPS)}.")
    if source is not None and keep is not None:
        raise InvalidRequest("", "{keep} is for merging without a float source. Leave it or {source} out.")


def no_floats(source: Path | None, keep: str | None, directory: Path) -> tuple[None, None]:
    """What a model needs whose adapted matrices are floats. Raises InvalidRequest for options that would do nothing."""
    for name, value in (("source", source), ("keep", keep)):
        if value is not None:
            raise InvalidRequest(f"The matrices in {directory} that the adapter changes are floats, which stay as they "
                                 "are stored.", f"Leave {{{name}}} out.")  # fmt: skip
    return None, None


def choose_floats(
    directory: Path, config: ModelConfig, source: Path | None, keep: str | None
) -> tuple[FloatSource | None, str | None]:
    """(the float source, None), or (None, the reason why none is used)."""
    if source is not None:
        return open_floats(source, config), None
    if keep is not None:
        return None, "it was asked for"
    found = find_floats(directory, config)
    return (None, found) if isinstance(found, str) else (found, None)


def kept_settings(how: Quantization, rounded: list[str], config: ModelConfig, keep: str) -> Quantization:
    """A model's quantization with its adapted matrices in 8 bits, or as floats."""
    shapes = config.weight_shapes()
    own = {name.removesuffix(".weight"): eight_bits(how, shapes[name]) for name in rounded}
    return replace(how, overrides={**how.overrides, **(own if keep == EIGHT_BIT else dict.fromkeys(own))})


def is_by_rows(how: Quantization, name: str) -> bool:
    """Whether a matrix has a float for each row: floats are never quantized to that."""
    setting = how.setting(name.removesuffix(".weight"))
    return setting is not None and setting.rows


def eight_bits(how: Quantization, shape: tuple[int, ...]) -> Quantization | None:
    """8 bits in groups of the model's own size where MLX has it, else in the largest that divide the rows."""
    own = [how.group_size] if how.mode == "affine" else []
    size = next((size for size in (*own, 64, 32) if shape[1] % size == 0), None)
    return Quantization(8, size) if size else None


def plan_stored(
    config: ModelConfig,
    quantization: Quantization | None,
    stored: Mapping[str, mx.array],
    adapted: list[str],
    rounded: set[str],
) -> Shards:
    """The files to write: weights without a sum as they are stored, those with one quantized where they were."""
    shards = plan_shards(config, quantization, stored_dtype(dict(stored), config), SHARD_BYTES)
    shapes = config.weight_shapes()
    parts, settings = {}, {}
    for name in shards.stored:
        is_new = name in adapted
        quantized = f"{name.removesuffix('weight')}scales" in stored
        setting = settings[name] = shards.settings[name] if (name in rounded if is_new else quantized) else None
        new = stored_parts(name, shapes[name], setting, shards.dtype)
        parts[name] = new if is_new else {p: Entry(stored[p].dtype, tuple(stored[p].shape)) for p in new}
    return replace(shards, stored=parts, settings=settings)
