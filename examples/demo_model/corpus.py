"""The stories as one array of ids, and the order in which training reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

WINDOW = 4096  # stories sorted together by length: more of them waste less padding, fewer mix short and long better
CHUNK = 1024  # stories tokenized at once
IGNORED = -100  # the target that cross_entropy leaves out

Batch = tuple[torch.Tensor, torch.Tensor]  # (ids, targets), both int64 [stories, positions]


@dataclass(frozen=True)
class Corpus:
    """Stories as one array of ids. Story i is ids[offsets[i] : offsets[i + 1]]: BOS, the text, EOS."""

    ids: NDArray[np.uint16]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def story(self, i: int) -> NDArray[np.uint16]:
        """The ids of story i."""
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    def split(self, held_out: int) -> tuple[Corpus, Corpus]:
        """(the stories for training, the last `held_out` stories)."""
        cut = len(self) - held_out
        start = self.offsets[cut]
        return (
            Corpus(self.ids[:start], self.offsets[: cut + 1]),
            Corpus(self.ids[start:], self.offsets[cut:] - start),
        )

    def fingerprint(self) -> str:
        """A hash of the ids and of where stories begin; equal only for equal corpora."""
        return hashlib.sha256(self.ids.tobytes() + self.offsets.tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes an .npz, under another name first, so that a file of the right name is complete."""
        with (unfinished := path.with_suffix(".part")).open("wb") as file:
            np.savez(file, ids=self.ids, offsets=self.offsets)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Corpus:
        """Reads the file that `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["ids"], arrays["offsets"])


def tokenize(stories: Iterable[str], tokenizer: SentencePieceProcessor) -> Corpus:
    """The corpus of all stories, in their order."""
    rows: list[NDArray[np.uint16]] = []
    for texts in chunks(stories):
        rows += [np.array(row, np.uint16) for row in tokenizer.encode(texts, add_bos=True, add_eos=True)]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Corpus(np.concatenate(rows), offsets)


def chunks(stories: Iterable[str]) -> Iterator[list[str]]:
    """Lists of CHUNK stories; the last may be shorter."""
    rest = iter(stories)
    while texts := list(islice(rest, CHUNK)):
        yield texts


def batches(corpus: Corpus, batch_tokens: int, seed: int, start: int = 0) -> Iterator[Batch]:
    """Batches `start`, `start + 1`, ... of an endless sequence that depends on the seed alone."""
    epoch = 0
    while True:
        groups = epoch_groups(corpus, batch_tokens, seed, epoch)
        yield from (batch(corpus, group) for group in groups[start:])
        start, epoch = max(0, start - len(groups)), epoch + 1


def epoch_groups(corpus: Corpus, batch_tokens: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Every story once, in groups of like length and at most `batch_tokens` with padding, in a shuffled order."""
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    order, lengths = random.permutation(len(corpus)), np.diff(corpus.offsets)
    windows = [order[i : i + WINDOW] for i in range(0, len(order), WINDOW)]
    sorted_windows = (window[np.argsort(lengths[window], kind="stable")] for window in windows)
    groups = [group for window in sorted_windows for group in cut(window, lengths, batch_tokens)]
    return [groups[i] for i in random.permutation(len(groups))]


def cut(window: NDArray[np.int64], lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Cuts stories in rising order of length into groups, where the next story would pass `batch_tokens`."""
    first = 0
    for i, length in enumerate(lengths[window]):
        if i > first and (i + 1 - first) * (length - 1) > batch_tokens:
            yield window[first:i]
            first = i
    yield window[first:]


def batch(corpus: Corpus, group: NDArray[np.int64]) -> Batch:
    """(ids, targets) of a group, a row for each story, padded at the end; targets are the ids one position later."""
    rows = [torch.from_numpy(corpus.story(i).astype(np.int64)) for i in group]
    ids = torch.nn.utils.rnn.pad_sequence([row[:-1] for row in rows], batch_first=True)
    targets = torch.nn.utils.rnn.pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=IGNORED)
    return ids, targets
