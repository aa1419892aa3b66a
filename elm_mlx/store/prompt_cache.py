"""The keys and values of a prompt in a file, so that a later process need not read the prompt again.

Format: safetensors. `ids` holds the prompt in int32, [L]; each layer has keys and values [1, K, S, D], or what they are
quantized to. The metadata say what all of it belongs to; another model's would be nonsense, so it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import mlx.core as mx
import numpy as np

from elm_mlx.arguments import is_unicode
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound, TargetExists, Unsupported
from elm_mlx.files import check_room, disk_errors, reading, whole_file
from elm_mlx.store.weight_files import some
from elm_mlx.store.weights import Entry, Writer, read_arrays, read_header, read_metadata

FORMAT, VERSION = "elm-mlx prompt cache", 1
MOST_POSITIONS = 2**31 - 1
SAVE_AGAIN = "Save it again with this model ({save_cache})."
OTHER_FILE = "Name another file."


@dataclass(frozen=True)
class Belongs:
    """What saved keys and values belong to: fingerprints of model and tokenizer, the type of the numbers, and the
    fingerprint of the adapter ("" for none)."""

    model: str
    tokenizer: str
    dtype: str
    adapter: str = ""


NAMED = {
    "model": "with another model, or with other weights of it",
    "tokenizer": "with another tokenizer",
    "dtype": "in another type of numbers ({theirs} in place of {ours})",
}


@dataclass(frozen=True)
class Extent:
    """How much was saved, and how it is held, in the words of the engine's CacheKind; 0 stands for None. The file has
    so many `positions`, of which `oldest` is the first that a window still holds, the sinks aside."""

    window: int
    sinks: int
    margin: int
    key_bits: int
    value_bits: int
    reach: int
    positions: int
    oldest: int


@dataclass(frozen=True)
class Parts:
    """What the arrays of every layer are called and how large they are: `heads` are those of each layer, `widths` and
    types those of each array in `names`; they have so many `columns`."""

    heads: tuple[int, ...]
    names: tuple[str, ...]
    widths: tuple[int, ...]
    dtypes: tuple[mx.Dtype, ...]
    columns: int

    def entries(self, positions: int) -> dict[str, Entry]:
        """The tensors of the file, in their order."""
        layers = {
            f"layers.{layer}.{name}": Entry(dtype, (1, heads, self.columns, width))
            for layer, heads in enumerate(self.heads)
            for name, width, dtype in zip(self.names, self.widths, self.dtypes, strict=True)
        }
        return {"ids": Entry(mx.int32, (positions,))} | layers


def save_file(
    path: Path, belongs: Belongs, extent: Extent, parts: Parts, ids: np.ndarray, layers: Iterable[list[mx.array]]
) -> None:
    """Writes a file whole or not at all: an earlier one of its name stays until the new one is complete. `layers` are
    taken one after the other. Raises DiskFull, ElmError."""
    entries = parts.entries(extent.positions)
    metadata = {"format": FORMAT, "version": str(VERSION), **asdict(belongs)}
    metadata |= {name: str(value) for name, value in asdict(extent).items()}
    names = iter(entries)
    with disk_errors(f"{path} cannot be written", OTHER_FILE, "name another file"):
        check_room(path, "Free some space, or name another file.", (path, sum(e.nbytes for e in entries.values())))
        with whole_file(path) as beside, Writer(beside, entries, metadata=metadata) as writer:
            writer.write(next(names), mx.array(ids))
            for arrays in layers:
                for array in arrays:
                    writer.write(next(names), array)


def refuse_other_file(path: Path) -> None:
    """Raises TargetExists for a file that is there and holds anything else than saved keys and values: it must not be
    lost to a name that was typed in the wrong place. Raises InvalidRequest for a name that could not be read again."""
    if not is_unicode(str(path)):
        raise InvalidRequest(f"The name {path} is not UTF-8 text, and MLX reads no file of such a name.", OTHER_FILE)
    with disk_errors(f"{path} cannot be written", OTHER_FILE):
        if not path.exists() or (path.is_file() and path.stat().st_size == 0):
            return
    try:
        own_metadata(path)
    except (BadCheckpoint, NotFound) as error:
        raise TargetExists(f"{path} exists, and is not a file of saved keys and values.", OTHER_FILE) from error


def own_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file of saved keys and values. Raises NotFound, and BadCheckpoint for another file."""
    with reading(path):
        if not path.is_file():
            raise NotFound(f"There is no file {path}.", "Name one that {save_cache} has written.")
    try:
        metadata = read_metadata(path)
    except (BadCheckpoint, Unsupported) as error:
        raise BadCheckpoint(f"{path} is not a file of saved keys and values, or is damaged.",
                            SAVE_AGAIN) from error  # fmt: skip
    if metadata.get("format") != FORMAT:
        raise BadCheckpoint(
            f"{path} is not a file of saved keys and values.", "Name one that {save_cache} has written."
        )
    return metadata


def read_extent(path: Path, belongs: Belongs) -> Extent:
    """Reads how much a file holds, and in which form. Raises NotFound; BadCheckpoint for a file that is damaged, or is
    no such file; InvalidRequest, which names what differs, where it does not belong to this model."""
    metadata = own_metadata(path)
    if metadata.get("version") != str(VERSION):
        raise InvalidRequest(f"{path} was saved by a version of elm-mlx with another format.", SAVE_AGAIN)
    for name, ours in asdict(belongs).items():
        theirs = metadata.get(name)
        if theirs != ours and name == "adapter":
            raise other_adapter(path, theirs, ours)
        if theirs != ours:
            what = NAMED[name].format(theirs=f"{theirs:.40}" if theirs else theirs, ours=ours)
            raise InvalidRequest(f"{path} was saved {what}.", SAVE_AGAIN)
    return Extent(**{field.name: natural(path, field.name, metadata) for field in fields(Extent)})


def other_adapter(path: Path, theirs: str | None, ours: str) -> InvalidRequest:
    """The refusal of a file that was saved with another adapter, one or none, than it is to be used with."""
    if not theirs:
        return InvalidRequest(f"{path} was saved without an adapter.", "Load it with no {adapter}.")
    if not ours:
        return InvalidRequest(f"{path} was saved with an adapter.", "Name that one as {adapter}, too.")
    return InvalidRequest(f"{path} was saved with another adapter.", "Name that one as {adapter}.")


def natural(path: Path, name: str, metadata: Mapping[str, str]) -> int:
    """A number of the metadata. Raises BadCheckpoint."""
    text = metadata.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MOST_POSITIONS):
        raise BadCheckpoint(f"{path}: {name} in its metadata is not a possible number.", SAVE_AGAIN)
    return int(text)


def read_file(path: Path, extent: Extent, parts: Parts, vocab: int) -> tuple[np.ndarray, list[list[mx.array]]]:
    """Reads (ids, the arrays of every layer, not evaluated), of exactly the shapes and types that the model calls for.
    Raises BadCheckpoint."""
    entries = parts.entries(extent.positions)
    header = read_header(path)
    if wrong := [name for name in {**entries, **header} if entries.get(name) != header.get(name)]:
        raise BadCheckpoint(f"{path} does not hold what its metadata and this model call for: {some(wrong)}.",
                            SAVE_AGAIN)  # fmt: skip
    arrays = {name: array for name, (_, array) in read_arrays(path).items()}
    ids = np.array(arrays.pop("ids"))
    if ids.min() < 0 or ids.max() >= vocab:
        raise BadCheckpoint(f"{path} holds ids that the model does not have.", SAVE_AGAIN)
    layers = range(len(parts.heads))
    return ids, [[arrays[f"layers.{layer}.{name}"] for name in parts.names] for layer in layers]


def check_finite(path: Path, arrays: Iterable[mx.array]) -> None:
    """Raises BadCheckpoint for numbers that are NaN or infinite."""
    floats = [array for array in arrays if mx.issubdtype(array.dtype, mx.floating)]
    if not all(mx.isfinite(array).all().item() for array in floats):
        raise BadCheckpoint(f"{path} holds numbers that are NaN or infinite.", SAVE_AGAIN)
