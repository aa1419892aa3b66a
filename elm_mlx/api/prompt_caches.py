"""Keys and values of a prompt, from the engine to a file and from a file to the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from elm_mlx.api.cache_kind import KV_BITS, cache_kind
from elm_mlx.api.stream import Stream
from elm_mlx.config import ModelConfig
from elm_mlx.device.backend import mx
from elm_mlx.engine.cache.kind import CacheKind
from elm_mlx.engine.cache.portable import (
    can_be,
    export,
    filled_columns,
    oldest_of,
    part_names,
    part_widths,
    restore,
)
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.handle import Handle
from elm_mlx.engine.prefixes import Prefixes
from elm_mlx.engine.sequence import Sequence
from elm_mlx.engine.worker import Worker
from elm_mlx.errors import BadCheckpoint, InvalidRequest, RequestFailed
from elm_mlx.store.fingerprint import model_fingerprint, tokenizer_fingerprint
from elm_mlx.store.prompt_cache import (
    SAVE_AGAIN,
    Belongs,
    Extent,
    Parts,
    check_finite,
    read_extent,
    read_file,
    save_file,
)


def refuse_short(ids: tuple[int, ...]) -> None:
    """Raises InvalidRequest for a prompt that nothing would be reused of."""
    if len(ids) < Prefixes.LEAST:
        raise InvalidRequest(f"The prompt has {len(ids)} tokens, and of fewer than {Prefixes.LEAST} nothing is reused: "
                             "they are read in no time. Give a longer prompt.")  # fmt: skip


class PromptCaches:
    """Saves and loads the keys and values of a loaded model's prompts. Raises NotFound and BadCheckpoint where the
    model's files are gone or changed for the worse."""

    def __init__(
        self, directory: Path, config: ModelConfig, dtype: mx.Dtype, worker: Worker,
        adapter: tuple[int | None, str] = (None, ""),
    ) -> None:  # fmt: skip
        """`adapter` is the number and the fingerprint of the one that the model computes with."""
        self.config, self.dtype, self.worker = config, dtype, worker
        self.adapter, used = adapter
        name = str(dtype).removeprefix("mlx.core.")
        self.belongs = Belongs(model_fingerprint(directory, config), tokenizer_fingerprint(directory), name, used)

    def save(self, path: Path, handle: Handle, answer: Stream) -> int:
        """Waits until a request that is held has read its prompt, and writes what the engine then holds of it. Returns
        how many positions that is. One layer at a time leaves the device thread, so others are answered meanwhile."""
        try:
            deque(answer, maxlen=0)
            answer.result()
            sequence = handle.sequence
            assert sequence
            kind, ids = sequence.request.cache, sequence.request.prompt
            layers, oldest = self.worker.call(lambda engine: look(engine, sequence))
            numbers = {name: value or 0 for name, value in asdict(kind).items()}
            extent = Extent(**numbers, positions=len(ids), oldest=oldest)
            arrays = exported(self.worker, sequence, layers)
            save_file(path, self.belongs, extent, self._parts(kind, extent), np.array(ids, np.int32), arrays)
            return len(ids)
        finally:
            self.worker.let_go(handle)

    def load(self, path: Path) -> int:
        """Gives the engine the keys and values in a file, and returns how many positions they are. Raises as
        `LanguageModel.load_cache`."""
        extent = read_extent(path, self.belongs)
        kind = kind_of(path, extent, self.config)
        self.worker.call(lambda engine: self._load(path, extent, kind, engine))
        return extent.positions

    def _load(self, path: Path, extent: Extent, kind: CacheKind, engine: Engine) -> None:
        """Reads the arrays, on the device thread."""
        engine.variants.check(self.adapter)
        parts = self._parts(kind, extent)
        nbytes = engine.limits.bytes_of(kind, extent.positions + 1)
        ids, layers = read_file(path, extent, parts, self.config.vocab_size)
        engine.prefixes.make_place_to_load(ids, kind, nbytes, self.adapter)
        grow_by = engine.execution.grow_by
        try:
            cache = restore(kind, checked(path, layers), extent.positions, extent.oldest, grow_by)
            engine.prefixes.load(ids, cache, kind, self.adapter)
        except RuntimeError as error:  # a file that has changed since its header was read
            raise BadCheckpoint(f"MLX cannot read {path}: {error}.", SAVE_AGAIN) from error

    def _parts(self, kind: CacheKind, extent: Extent) -> Parts:
        """The arrays of a cache of this kind."""
        names, config = part_names(kind), self.config
        dtypes = tuple(mx.uint32 if name.endswith(".weight") else self.dtype for name in names)
        columns = filled_columns(kind, extent.positions, extent.oldest)
        return Parts(config.cached_heads, names, tuple(part_widths(kind, config.head_dim)), dtypes, columns)


def checked(path: Path, layers: list[list[mx.array]]) -> Iterator[list[mx.array]]:
    """The arrays of one layer after the other, read and found to be numbers. The list is used up, so that no more than
    one layer is in memory twice."""
    while layers:
        check_finite(path, layers[0])
        yield layers.pop(0)


def look(engine: Engine, sequence: Sequence) -> tuple[int, int]:
    """(how many layers are held of an answered request, the oldest position that they hold). Raises RequestFailed where
    they were lost: its step failed after it had ended."""
    if sequence not in engine.held:
        raise RequestFailed("Computing failed in the step that read the end of the prompt.", "Save it again.")
    layers = engine.held[sequence][0]
    return len(layers), oldest_of(layers[0])


def exported(worker: Worker, sequence: Sequence, layers: int) -> Iterator[list[mx.array]]:
    """The arrays of one layer after the other."""
    kind = sequence.request.cache
    for layer in range(layers):
        yield worker.call(lambda engine, layer=layer: export(engine.held[sequence][0][layer], kind))  # type: ignore[misc]


def kind_of(path: Path, extent: Extent, config: ModelConfig) -> CacheKind:
    """The kind of cache that a file holds. Raises BadCheckpoint for one that no call can have asked for."""
    bits = extent.key_bits or None, extent.value_bits or None
    kind = CacheKind(extent.window or None, extent.sinks, *bits, extent.margin, extent.reach or None)
    options = {"window": kind.window, "kv_bits": next((name for name, both in KV_BITS.items() if both == bits), "none")}
    try:
        can_be_asked = kind == cache_kind(options, config.context_length)
    except InvalidRequest:
        can_be_asked = False
    if not can_be_asked or extent.positions < Prefixes.LEAST or not can_be(kind, extent.positions, extent.oldest):
        raise BadCheckpoint(f"{path}: the numbers in its metadata do not go together.", SAVE_AGAIN)
    return kind
