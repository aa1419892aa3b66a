"""PyTorch checkpoints (.bin, .pt, .pth) without torch: the tensors of a saved state dict, still on disk.

Format: torch/serialization.py. A zip holds `data.pkl`, a pickle that says what the tensors are, and a member
`data/KEY` for each storage: its elements as they lie in memory, little-endian. Before torch 1.6 the pickle and the
storages lay one after the other (`legacy`).

The file is not trusted. `zip` finds the members, `pickle` interprets the pickle and runs nothing, `tensors` checks
that every tensor lies within the bounds of its storage.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file.legacy import LEGACY_MAGIC, read_legacy
from elm_mlx.convert.torch_file.pickle import Opaque, interpret, pickle_refusal
from elm_mlx.convert.torch_file.tensors import TorchNames
from elm_mlx.convert.torch_file.zip import LOCAL_MARK, read_members
from elm_mlx.errors import BadCheckpoint, NotFound, Unsupported, unsupported
from elm_mlx.files import LFS_POINTER, reading

SAVE_AGAIN = "load it in torch 1.6 or later and save its state_dict() alone."
MODEL_KEYS = ("model_state_dict", "state_dict", "model")  # in training checkpoints: CoreNet's own, then those of others


def read_torch_file(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a state dict saved by `torch.save`, alone or in a training checkpoint, by name, in its order.

    Nothing is executed, and no element is read before `LazyTensor.read()`, which copies one tensor out of a
    memory map. The map lives as long as the tensors do; meanwhile the file may be unlinked, but not truncated.
    float64 is read as float32. Parameters come as their tensors, tied tensors once for each name.

    Raises NotFound for a missing file, Unsupported for intact files of another kind (the tar format,
    TorchScript, big-endian, no state dict, quantized, float8, complex128 or sparse tensors), and
    BadCheckpoint for a file that is damaged, hostile or no PyTorch file.
    """
    with reading(path):
        there = path.is_file()
    if not there:
        raise NotFound(f"{path} is not there, or is no file; give a .bin, .pt or .pth file.")
    with _blame(path):
        file = _map_file(path)
        names = TorchNames(len(file))
        read = _read_zip if file[:4] == LOCAL_MARK else read_legacy
        return _state_dict(read(file, names), names.unknown)


@contextmanager
def _blame(path: Path) -> Iterator[None]:
    """Puts the file's name before a refusal, and turns any error that broken content causes into a refusal."""
    try:
        yield
    except (BadCheckpoint, Unsupported) as error:
        raise type(error)(f"{path}: {error.message}", error.advice) from error
    except (struct.error, LookupError, ValueError, TypeError, OverflowError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise BadCheckpoint(f"{path}: damaged ({what}); download it again.") from error


def _map_file(path: Path) -> memoryview:
    with reading(path), path.open("rb") as file:
        _require_torch(file.read(512))
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _require_torch(head: bytes) -> None:
    """Refuses other files with these suffixes, by their first bytes."""
    if head.startswith(LOCAL_MARK) or LEGACY_MAGIC in head[:32]:
        return
    if head[257:262] == b"ustar":
        raise Unsupported(f"PyTorch's oldest format, a tar file; {SAVE_AGAIN}")
    if head.startswith(LFS_POINTER):
        raise BadCheckpoint("a Git LFS pointer, not the weights; run `git lfs pull` where it was cloned.")
    raise BadCheckpoint(f"not a PyTorch file: it starts with {head[:8]!r}; download it again.")


def _read_zip(file: memoryview, names: TorchNames) -> object:
    """Reads the saved object, and finds the bytes of each storage that it refers to."""
    archive = _read_archive(file)
    code = archive["data.pkl"]
    value, end = interpret(code, 0, names.look_up, names.storage)
    if end != len(code):
        raise pickle_refusal("is more than one value")
    for key, storage in names.storages.items():
        member = archive.get(f"data/{key}")
        if member is None or len(member) < storage.size:
            raise BadCheckpoint(f"storage {key[:80]!r} is missing or cut short; download the file again.")
        storage.data = member[: storage.size]
    return value


def _read_archive(file: memoryview) -> dict[str, memoryview]:
    archive = read_members(file)
    order = archive.get("byteorder", b"little")  # torch before 2.1 does not write it
    if order == b"big":
        raise unsupported("the byte order", "big", ["little"])
    if order != b"little" or "data.pkl" not in archive:
        raise BadCheckpoint("a zip, but not one that torch.save makes; download it again.")
    return archive


def _state_dict(value: object, unknown: Collection[str]) -> dict[str, LazyTensor]:
    """The value, or the model in a training checkpoint, if it is tensors by name. `unknown` lists the names in the file
    that stand for nothing here. Raises BadCheckpoint, Unsupported."""
    model = _model(value)
    # A training checkpoint has options, counters and an optimizer, with names of any kind. They are never imported or
    # called, and to refuse them would only lose the model. In a state dict alone they are an attack or a mistake.
    if model is value and unknown:
        raise pickle_refusal(f"names {next(iter(unknown))!r}")
    if not isinstance(model, dict):
        raise Unsupported(f"holds one {_kind(model)}, no state dict; {SAVE_AGAIN}")
    if not any(isinstance(item, LazyTensor) for item in model.values()):
        found = ", ".join(repr(key)[:40] for key in list(model)[:8]) or "nothing"
        raise Unsupported(f"holds {found} and no tensors by their names; {SAVE_AGAIN}")
    for key, item in model.items():
        if type(key) is not str or not isinstance(item, LazyTensor):
            raise BadCheckpoint(
                f"its entry {repr(key)[:80]} is not a named tensor but a {_kind(item)}, and would be lost; {SAVE_AGAIN}"
            )
    return model


def _model(value: object) -> object:
    """The model in a training checkpoint, under the first key of MODEL_KEYS; any other value is returned as it is."""
    if isinstance(value, dict):
        for key in MODEL_KEYS:
            if isinstance(value.get(key), dict | Opaque):
                return value[key]
    return value


def _kind(value: object) -> str:
    if isinstance(value, LazyTensor):
        return "tensor"
    return value.name if isinstance(value, Opaque) else type(value).__name__
