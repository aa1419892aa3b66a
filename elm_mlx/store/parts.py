"""The part of a model that one rank holds, read from files that hold all of it: of each tensor only the rank's own rows
or columns are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np

from elm_mlx.config import HEAD_NAME, GuestConfig, ModelConfig, Shape
from elm_mlx.distributed.cuts import tensor_share
from elm_mlx.distributed.part import TENSOR, Cut, Kind, Part, Share
from elm_mlx.distributed.stages import pipeline_share
from elm_mlx.errors import BadCheckpoint, Unsupported
from elm_mlx.files import reading
from elm_mlx.store.tensors import called_for, repeats_embedding, runnable_weight_files, stored_dtype
from elm_mlx.store.weights import Entry, check_copy, gather, read_places

WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}  # by their bytes: NumPy has no bfloat16


@dataclass(frozen=True)
class Place:
    """A tensor in a file, from the byte `start` on."""

    path: Path
    start: int
    entry: Entry


@dataclass(frozen=True)
class Piece:
    """What a rank holds of a tensor in a file."""

    place: Place
    cut: Cut

    @property
    def shape(self) -> Shape:
        """The shape of what is held."""
        return self.cut.shape(self.place.entry.shape)

    @property
    def dtype(self) -> mx.Dtype:
        """The type of what is held."""
        return self.place.entry.dtype

    @property
    def nbytes(self) -> int:
        """The bytes of what is held."""
        return prod(self.shape) * self.dtype.size

    def __getitem__(self, rows: slice) -> mx.array:
        """Reads some rows of what is held. Raises BadCheckpoint where the file has become shorter."""
        path, entry, cut = self.place.path, self.place.entry, self.cut
        with reading(path):
            try:
                words = np.memmap(path, WORDS[entry.dtype.size], "r", self.place.start, entry.shape)
            except ValueError as error:
                raise BadCheckpoint(f"{path} became shorter while it was read. Fetch it again.") from error
            held = words[cut.begin : cut.end] if cut.axis == 0 else words[:, cut.begin : cut.end]
            # MLX would keep all that lies between the columns, too
            return mx.array(np.ascontiguousarray(held[rows])).view(entry.dtype)


class Pieces(Mapping[str, mx.array]):
    """The arrays that a rank holds, by name; `dtype` is the floating type of the whole model. Each is read when it is
    asked for."""

    def __init__(self, pieces: Mapping[str, Piece], dtype: mx.Dtype) -> None:
        self.pieces, self.dtype = dict(pieces), dtype

    def __getitem__(self, name: str) -> mx.array:
        return self.pieces[name][:]

    def __contains__(self, name: object) -> bool:
        return name in self.pieces  # a Mapping's own way would read it

    @property
    def nbytes(self) -> int:
        """The bytes of all of them, as they are stored."""
        return sum(piece.nbytes for piece in self.pieces.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    def pop(self, name: str) -> mx.array:
        """Reads an array, and forgets where it lies."""
        array = self[name]
        del self.pieces[name]
        return array


def read_share(directory: Path, config: ModelConfig, part: Part) -> tuple[Share, Pieces]:
    """(what a rank holds of a directory's model, its arrays, not read yet), from the headers of the files. Where a tied
    head is stored, too, the rank compares its own rows with the embedding's. Raises as `store.load.load_arrays`, and as
    `share_of`."""
    refuse_guest(directory, config)
    found = gather(directory, runnable_weight_files(directory), read_file)
    tensors = places(directory, config, found)
    share = share_of(config, part, tensors)
    own = share.cuts.get(config.embedding_name)
    if own and repeats_embedding(config, found):
        check_copy(directory, *(Piece(found[name][1], own) for name in (HEAD_NAME, config.embedding_name)))
    return share, pieces_of(share, tensors)


def rank_bytes(directory: Path, config: ModelConfig, kind: Kind, ranks: int) -> list[int]:
    """The bytes of the weights that each of so many ranks holds, as they are stored, from the headers of a directory's
    files alone. Raises as `read_share`."""
    refuse_guest(directory, config)
    tensors = places(directory, config, gather(directory, runnable_weight_files(directory), read_file))
    shares = (share_of(config, Part(kind, rank, ranks), tensors) for rank in range(ranks))
    return [pieces_of(share, tensors).nbytes for share in shares]


def refuse_guest(directory: Path, config: ModelConfig) -> None:
    """Raises Unsupported for a model that mlx-lm's classes compute."""
    if isinstance(config, GuestConfig):
        raise Unsupported(f"{directory} is a model of the kind {config.model_type}, which mlx-lm's classes compute. "
                          "Several machines share models of elm-mlx's own architectures alone (llama and those of its "
                          "blocks, openelm, bitnet): run this one on one machine.")  # fmt: skip


def share_of(config: ModelConfig, part: Part, tensors: Mapping[str, Place]) -> Share:
    """What a rank holds of a model with these tensors. Raises Unsupported where so many ranks cannot hold it."""
    if part.kind == TENSOR:
        return tensor_share(config, part)
    shapes = config.weight_shapes()
    sizes = dict.fromkeys(shapes, 0)
    for name, place in tensors.items():
        sizes[weight_of(name, shapes)] += place.entry.nbytes
    return pipeline_share(config, part, sizes)


def pieces_of(share: Share, tensors: Mapping[str, Place]) -> Pieces:
    """What a rank holds of each stored tensor, of which a quantized weight has several."""
    shapes = share.config.weight_shapes()
    pieces = {}
    for name, place in tensors.items():
        weight = weight_of(name, shapes)
        if weight in share.cuts:
            pieces[name] = Piece(place, share.cuts[weight].stored(shapes[weight], place.entry.shape))
    return Pieces(pieces, stored_dtype({name: place.entry for name, place in tensors.items()}, share.config))


def weight_of(name: str, shapes: Mapping[str, Shape]) -> str:
    """The weight that a tensor is stored for: scales and biases belong to one, too."""
    return name if name in shapes else f"{name.rpartition('.')[0]}.weight"


def places(directory: Path, config: ModelConfig, found: Mapping[str, tuple[Entry, Place]]) -> dict[str, Place]:
    """Where the tensors lie that `config` calls for."""
    return {name: place for name, (_, place) in called_for(directory, config, found).items()}


def read_file(path: Path) -> dict[str, tuple[Entry, Place]]:
    """The tensors of a safetensors file, by name, from its header."""
    return {name: (entry, Place(path, start, entry)) for name, (start, entry) in read_places(path).items()}
