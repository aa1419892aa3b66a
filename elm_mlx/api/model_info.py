"""The figures of a model that is on this machine, from its headers alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from elm_mlx.api.cache_kind import cache_kind, check_cache_options, quantized_kinds
from elm_mlx.api.unable import refuse_unable
from elm_mlx.arguments import whole_number
from elm_mlx.config import GuestConfig, ModelConfig
from elm_mlx.config.abilities import OURS, Abilities
from elm_mlx.config.quantization import check_bits
from elm_mlx.demo import demo_directory
from elm_mlx.device.backend import mx
from elm_mlx.device.chips import Prediction, Step, chip_here, predict
from elm_mlx.device.memory import Footprint, footprint, memory_limit
from elm_mlx.device.thread import on_device
from elm_mlx.engine.cache.kind import CacheKind
from elm_mlx.errors import InvalidRequest
from elm_mlx.library.local import find_in_any_bits
from elm_mlx.store.conversion_record import read_calibration
from elm_mlx.store.guests import stored_guest
from elm_mlx.store.load import load_arrays, read_config
from elm_mlx.store.tensors import stored_dtype

PREDICTED_DEPTH = 128  # tokens in the cache that a speed is predicted for where no context is named


@dataclass(frozen=True)
class ModelInfo:
    """What a model directory holds, read from its headers (and a tied head's copy, if it carries one): exact
    `parameters`, a tied head counted once; bits per weight as stored; bytes of weights; bytes of cache for a position,
    in floats and, by the value of the option `kv_bits`, quantized; the context in tokens. And in bytes what the model
    takes while it runs, the `footprint` with a cache for `footprint.context` positions, and what this machine has
    `available` for a model. `predicted` is how fast it may decode, on a Mac whose chip others have published speeds
    of: not measured, and with the error to expect. `calibration` is what conversion.json says of how the weights were
    calibrated, if they were; `sharing` how many layers there are where some share their weights, and which; `limits`
    what the caches of a model that mlx-lm's classes compute cannot do; `notices` sentences about what is not known of
    it."""

    model: str
    family: str
    parameters: int
    bits_per_weight: float
    weight_bytes: int
    kv_bytes_per_token: int
    kv_bytes_by_bits: dict[str, int]
    context_length: int
    dtype: str
    quantization: dict[str, Any] | None
    footprint: Footprint
    available: int
    predicted: Prediction | None = None
    calibration: dict[str, Any] | None = None
    limits: str | None = None
    sharing: str | None = None
    notices: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether this machine has room for the model and its cache."""
        return self.footprint.total <= self.available


def info(
    model: str | Path | None = None, context: int | None = None, bits: int | None = None, *,
    window: int | None = None, kv_bits: int | str | None = None,
) -> ModelInfo:  # fmt: skip
    """The figures of a model that is on this machine, by name or directory (None: the demo). A named model is found in
    any bits that it is here in.

    The footprint is that of `context` positions (4,096 by default, at most the model's), as if the model were quantized
    to `bits` if they are given, and with the cache that the options `window` and `kv_bits` of a call ask for. The
    predicted speed is that of a plain cache, at 128 positions by default. Raises InvalidRequest, NotFound,
    BadCheckpoint, Unsupported.
    """
    check_bits(bits)
    if context is not None and whole_number("context", context) < 1:
        raise InvalidRequest(f"context is {context}; it must be above 0.")
    check_cache_options({"window": window, "kv_bits": kv_bits})
    directory = demo_directory() if model is None else find_in_any_bits(model, bits)
    config = read_config(directory)
    dtype, nbytes, is_quantized = on_device(lambda _: stored(directory, config))
    count = config.parameter_count
    weights = config.quantized_bytes(bits) if bits else nbytes
    takes = footprint(config, weights, 8 * dtype.size, context)
    kind = cache_kind({"window": window, "kv_bits": kv_bits}, config.context_length)
    refuse_unable(config, {"window": window, "kv_bits": kv_bits})
    depth = takes.context if context else PREDICTED_DEPTH
    step = Step(weights, 8 * dtype.size, bool(bits or is_quantized), depth)
    return ModelInfo(
        model="demo" if model is None else str(model),
        family=config.label,
        parameters=count,
        bits_per_weight=8 * nbytes / count,
        weight_bytes=nbytes,
        kv_bytes_per_token=config.kv_bytes_per_token(8 * dtype.size),
        kv_bytes_by_bits=bytes_by_bits(config, dtype),
        context_length=config.context_length,
        dtype=str(dtype).removeprefix("mlx.core."),
        quantization=config.quantization.to_dict() if config.quantization and is_quantized else None,
        footprint=replace(takes, cache=cache_bytes(config, dtype, kind, takes.context)),
        available=memory_limit(),
        predicted=predict(config, step, chip_here()),
        calibration=read_calibration(directory),
        limits=limits_of(config.abilities),
        sharing=config.sharing,
        notices=config.notices,
    )


def limits_of(able: Abilities) -> str | None:
    """What a model's caches cannot do, in words; None where they can do all."""
    if able == OURS:
        return None
    alone = "" if able.rows else " one request at a time,"
    forgets = (
        "" if able.trims else " no proposals (drafts, lookup), kept caches only for prompts that go on at their end,"
    )
    return f"through mlx-lm:{alone}{forgets} no windows, quantized or saved caches, no adapters"


def bytes_by_bits(config: ModelConfig, dtype: mx.Dtype) -> dict[str, int]:
    """The bytes of a position in quantized caches, by the value of `kv_bits`; none for a model without such caches."""
    kinds = quantized_kinds() if config.abilities.kinds else {}
    return {str(name): cache_bytes(config, dtype, kind, 1) for name, kind in kinds.items()}


def cache_bytes(config: ModelConfig, dtype: mx.Dtype, kind: CacheKind, positions: int) -> int:
    """The bytes that a cache of this kind takes for so many positions."""
    float_bits = 8 * dtype.size
    return kind.bytes_of(positions, config.kv_bytes_per_token(float_bits), config.head_dim, float_bits)


def stored(directory: Path, config: ModelConfig) -> tuple[mx.Dtype, int, bool]:
    """(the floating type of a model's weights, their bytes, whether some are quantized), from the headers alone."""
    if isinstance(config, GuestConfig):
        return stored_guest(directory)
    arrays, nbytes = load_arrays(directory, config)
    return stored_dtype(arrays, config), nbytes, any(name.endswith(".scales") for name in arrays)
