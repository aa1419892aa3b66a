"""The head of a guest for the last position alone: of a prompt no other logits are asked for.

mlx-lm's classes multiply all states of a chunk with the head's matrix, of as many rows as the vocabulary has. Its own
loop avoids that by a step for the last id, which reads all weights of the model once more: for few ids that is dear.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

HEADS = ("lm_head", "output", "embed_out", "head")
EMBEDDINGS = ("embed_tokens", "wte", "tok_embeddings", "embeddings", "embed_in")
PROBE = 3  # ids


class LastHead(dict):
    """A head of mlx-lm's, or an embedding that is one: while `is_last` it multiplies the last of the states alone. It
    is a dict so that nn.Module counts it among its parts: some classes ask whether they have a head."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self._inner, self.is_last = inner, False

    def __call__(self, x: mx.array) -> mx.array:
        """States to logits, or ids to the rows of an embedding."""
        return self._inner(self._cut(x))

    def as_linear(self, x: mx.array) -> mx.array:
        """States to logits, by the embedding's rows."""
        return self._inner.as_linear(self._cut(x))

    def _cut(self, x: mx.array) -> mx.array:
        return x[:, -1:] if self.is_last and x.ndim == 3 else x

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextmanager
    def last(self) -> Iterator[None]:
        """While it lasts, only the last state is multiplied."""
        self.is_last = True
        try:
            yield
        finally:
            self.is_last = False


def last_head(module: Any) -> LastHead | None:
    """Puts a LastHead in the place of a network's head. None, with the network as it was, where none is found whose
    logits are one position's then: that is seen in their shape alone, so nothing is computed."""
    for owner, name in places(module):
        inner = getattr(owner, name)
        head = LastHead(inner)
        setattr(owner, name, head)
        if is_one(module, head):
            return head
        setattr(owner, name, inner)
    return None


def places(module: Any) -> Iterator[tuple[Any, str]]:
    """Where heads may be: in the model itself, and then the embeddings in what it holds."""
    inner = [
        part for part in (getattr(module, "model", None), getattr(module, "transformer", None)) if part is not None
    ]
    for owners, names in (([module], HEADS), ([module, *inner], EMBEDDINGS)):
        yield from ((owner, name) for owner in owners for name in names if callable(getattr(owner, name, None)))


def is_one(module: Any, head: LastHead) -> bool:
    """Whether a network gives the logits of one position while its head is for the last, and all of them otherwise."""
    ids = mx.array([[0] * PROBE])
    try:
        with head.last():
            one = module(ids).shape
        return one[1] == 1 and module(ids).shape == (one[0], PROBE, *one[2:])
    except Exception:  # whatever its code makes of a head of another class
        return False
