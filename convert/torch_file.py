"""PyTorch checkpoints (.bin, .pt, .pth) without torch: the tensors of a saved state dict, still on disk.

Format: torch/serialization.py. A zip holds `data.pkl`, a pickle that says what the tensors are, and a member
`data/KEY` for each storage: its elements as they lie in memory, little-endian.

The file is not trusted. `torch_zip` finds the members, `torch_pickle` interprets the pickle and runs nothing,
`torch_tensors` holds every tensor against the bounds of its storage.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_pickle import interpret
from elm_mlx.convert.torch_tensors import Vocabulary
from elm_mlx.convert.torch_zip import LOCAL_MARK, read_members
from elm_mlx.errors import BadCheckpoint, NotFound, Unsupported, unsupported
from elm_mlx.store.files import reading

LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # LONG1 0x1950a86a20f9469cfc6c
LFS_MAGIC = b"version https://git-lfs"
SAVE_AGAIN = "load it in torch 1.6 or later and save its state_dict() alone."


def read_torch_file(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a state dict saved by `torch.save` (torch 1.6 and later), by name, in the file's order.

    Nothing is executed, and no element is read before `LazyTensor.read()`, which copies one tensor out of a
    memory map. The map lives as long as the tensors do; meanwhile the file may be unlinked, not truncated.
    float64 is read as float32. Parameters come as their tensors, tied tensors once for each name.

    Raises NotFound for a missing file, Unsupported for honest files of another kind (legacy and tar formats,
    TorchScript, big-endian, training checkpoints, quantized, float8, complex128 or sparse tensors), and
    BadCheckpoint for a file that is damaged, hostile or no PyTorch file.
    """
    with reading(path):
        there = path.is_file()
    if not there:
        raise NotFound(f"{path} is not there, or is no file; name a .bin, .pt or .pth file.")
    with _blame(path):
        file = _mapped(path)
        archive = _archive(file)
        words = Vocabulary(archive, len(file))
        return _state_dict(interpret(archive["data.pkl"], words.look_up, words.storage))


@contextmanager
def _blame(path: Path) -> Iterator[None]:
    """Put the file's name before a refusal, and make a refusal of whatever broken content raises."""
    try:
        yield
    except (BadCheckpoint, Unsupported) as error:
        raise type(error)(f"{path}: {error}") from error
    except (struct.error, LookupError, ValueError, TypeError, OverflowError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise BadCheckpoint(f"{path}: damaged ({what}); download it again.") from error


def _mapped(path: Path) -> memoryview:
    with reading(path), path.open("rb") as file:
        _require_zip(file.read(512))
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _require_zip(head: bytes) -> None:
    """Tell the other files that carry these suffixes by their first bytes."""
    if head.startswith(LOCAL_MARK):
        return
    if LEGACY_MAGIC in head[:16]:
        raise Unsupported(f"PyTorch's legacy format, which is not a zip; {SAVE_AGAIN}")
    if head[257:262] == b"ustar":
        raise Unsupported(f"PyTorch's oldest format, a tar file; {SAVE_AGAIN}")
    if head.startswith(LFS_MAGIC):
        raise BadCheckpoint("a Git LFS pointer, not the weights; run `git lfs pull` where it was cloned.")
    raise BadCheckpoint(f"no PyTorch file, it starts with {head[:8]!r}; download it again.")


def _archive(file: memoryview) -> dict[str, memoryview]:
    archive = read_members(file)
    order = archive.get("byteorder", b"little")  # torch before 2.1 does not say
    if order == b"big":
        raise unsupported("the byte order", "big", ["little"])
    if order != b"little" or "data.pkl" not in archive:
        raise BadCheckpoint("a zip, but not as torch.save makes it; download it again.")
    return archive


def _state_dict(value: object) -> dict[str, LazyTensor]:
    """The value, if it is tensors by name; training checkpoints keep such a dict one level down."""
    if not isinstance(value, dict):
        what = "tensor" if isinstance(value, LazyTensor) else type(value).__name__
        raise Unsupported(f"holds one {what}, no state dict; {SAVE_AGAIN}")
    if not any(isinstance(item, LazyTensor) for item in value.values()):
        found = ", ".join(repr(key)[:40] for key in list(value)[:8]) or "nothing"
        raise Unsupported(f"holds {found} and no tensors beside, like a training checkpoint; {SAVE_AGAIN}")
    for key, item in value.items():
        if type(key) is not str or not isinstance(item, LazyTensor):
            raise BadCheckpoint(
                f"its {repr(key)[:80]} is no tensor under a name but a {type(item).__name__}, which would "
                f"be lost; {SAVE_AGAIN}"
            )
    return value
