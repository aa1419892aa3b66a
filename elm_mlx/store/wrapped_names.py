"""Names of tensors that were saved inside a wrapper: torch.compile, DataParallel and their like put a word in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from elm_mlx.errors import Unsupported

# By torch.compile; DataParallel and DistributedDataParallel; FSDP; activation checkpointing. They stand anywhere.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
OUTER = re.compile(r"^model\.(?=(?:model|lm_head|transformer)\.)")  # a model that was one part of a training's own


def unwrap(name: str) -> str:
    """A tensor's name without the words of wrappers."""
    return OUTER.sub("", WRAPPERS.sub("", name))


def refuse_wrapped(directory: Path, names: Iterable[str]) -> None:
    """Raises Unsupported for names that only a conversion reads."""
    if found := next((name for name in names if unwrap(name) != name), None):
        raise Unsupported(f"The weights in {directory} were saved inside a wrapper (torch.compile, DataParallel or the "
                          f"like), which changed their names: {found} is {unwrap(found)}. Convert them, which takes "
                          f"the wrapper's words away: elm-mlx convert {directory}")  # fmt: skip
