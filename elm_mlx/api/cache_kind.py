"""How a call wants its keys and values held: the options `window` and `kv_bits`."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from elm_mlx.arguments import shown, whole_number
from elm_mlx.engine.cache.kind import CacheKind
from elm_mlx.errors import InvalidRequest

LEAST_WINDOW = 16  # positions: with fewer no model writes sentences
SINKS = 4  # first positions that a window keeps. Source: Xiao et al., "Efficient Streaming Language Models" (2023)
KV_BITS: dict[Any, tuple[int | None, int | None]] = {None: (None, None), 8: (8, 8), "k8v4": (8, 4), 4: (4, 4)}


def check_cache_options(options: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a `window` or `kv_bits` that has no meaning with any model."""
    if (window := options.get("window")) is not None and whole_number("window", window) < LEAST_WINDOW:
        raise InvalidRequest(f"window is {window}; it must be {LEAST_WINDOW} tokens or more.",
                             "Give a larger {window}, or leave it out: then nothing is forgotten.")  # fmt: skip
    bits = options.get("kv_bits")
    if isinstance(bits, bool) or not isinstance(bits, Integral | str | None) or bits not in KV_BITS:
        raise InvalidRequest(f"kv_bits is {shown(bits)}; it must be 8, 4 or 'k8v4'.",
                             "Give one of these for {kv_bits}, or leave it out to quantize nothing.")  # fmt: skip


def cache_kind(options: Mapping[str, Any], context: int) -> CacheKind:
    """The kind of cache for a call, with a model of this context.

    Beside a window some first positions are kept, the sinks. Only positions within the context see them: beyond it the
    distance to them would be one that the model was never trained for. Raises InvalidRequest as `check_cache_options`,
    and for a window that is larger than the context.
    """
    check_cache_options(options)
    window = options.get("window")
    key_bits, value_bits = KV_BITS[options.get("kv_bits")]
    if window is None:
        return CacheKind(key_bits=key_bits, value_bits=value_bits)
    if window > context:
        raise InvalidRequest(f"window is {window}, and the model's context {context}: it was not trained to look "
                             "further back.", f"Give at most {{window={context}}}.")  # fmt: skip
    return CacheKind(int(window), SINKS, key_bits, value_bits, reach=context)


def quantized_kinds() -> dict[int | str, CacheKind]:
    """The kinds of cache without a window that quantize, by the value of `kv_bits`."""
    return {name: CacheKind(key_bits=bits[0], value_bits=bits[1]) for name, bits in KV_BITS.items() if name}
