"""The stages of a calibration that are done, in a folder, so that a run which was stopped goes on after the last one.

    journal       FINGERPRINT of all that the bytes come from, then a line for each file below: CRC32 NAME
    parts-0000    what the weights of the first stage are stored as, as safetensors
    states-0000   the states after that stage, which the next one begins with; only the newest are kept

A file gets its name once it is on the disk, and its line after that. No line is trusted before its file is read back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx

from elm_mlx.convert.output.journal import Journal, read_checksum
from elm_mlx.convert.output.target import sync
from elm_mlx.store.weights import Entry, Writer, read_arrays

Arrays = dict[str, mx.array]
JOURNAL = "journal"


class SavedStages:
    """The first `done` of `count` stages, in `folder`."""

    def __init__(self, folder: Path, journal: Journal, count: int) -> None:
        self.folder, self.count, self._journal = folder, count, journal
        self.done = self._resume()

    def _names(self) -> list[str]:
        """The files of all stages, in the order of writing; the last one has no states after it."""
        return [f"{kind}-{stage:04d}" for stage in range(self.count) for kind in ("parts", "states")][:-1]

    def _resume(self) -> int:
        """How many stages are whole: the parts of all of them, and the states after the last. Removes all else."""
        pairs = zip(self._journal.claims(), self._names(), strict=False)
        claims = {name: claim for (claim, listed), name in pairs if listed == name}
        intact = next((i for i in range(self.count) if not self._is_intact(f"parts-{i:04d}", claims)), self.count)
        whole = (n for n in range(intact, 0, -1) if n == self.count or self._is_intact(f"states-{n - 1:04d}", claims))
        done = next(whole, 0)
        self._journal.keep_first(len(kept := self._names()[: 2 * done]))
        stale = {f"states-{stage:04d}" for stage in range(done - 1)}
        for path in self.folder.iterdir():
            if path.name != JOURNAL and path.name not in {*kept} - stale:
                remove(path)
        return done

    def _is_intact(self, name: str, claims: Mapping[str, str]) -> bool:
        """Whether a file is there and has the checksum that the journal claims."""
        path = self.folder / name
        return name in claims and path.is_file() and not path.is_symlink() and file_checksum(path) == claims[name]

    def add(self, parts: Arrays, states: Arrays) -> None:
        """Keeps the next stage: its parts and the states after it. Those of the stage before go."""
        stage = self.done
        self._write(f"parts-{stage:04d}", parts)
        if stage + 1 < self.count:
            self._write(f"states-{stage:04d}", states)
        sync(self.folder / JOURNAL)  # before older states go: after a power cut one of both is there, with its line
        self.done += 1
        if stage:
            remove(self.folder / f"states-{stage - 1:04d}")

    def _write(self, name: str, arrays: Arrays) -> None:
        """Writes arrays whole or not at all, and then their line."""
        path, beside = self.folder / name, self.folder / f"{name}.partial"
        with Writer(beside, {key: Entry(array.dtype, array.shape) for key, array in arrays.items()}) as writer:
            for key, array in arrays.items():
                writer.write(key, array)
        sync(beside)
        found = file_checksum(beside)
        beside.rename(path)
        sync(self.folder)
        self._journal.add(name, found)

    def states(self) -> Arrays:
        """The states after the last stage that is done, in memory: their file goes when the next stage is done."""
        states = self._read(f"states-{self.done - 1:04d}")
        mx.eval(*states.values())
        return states

    def parts(self, stage: int) -> Arrays:
        """What the weights of a stage that is done are stored as, by tensor; read from the file when they are used."""
        return self._read(f"parts-{stage:04d}")

    def _read(self, name: str) -> Arrays:
        return {key: array for key, (_, array) in read_arrays(self.folder / name).items()}


@contextmanager
def saved_stages(folder: Path, fingerprint: str, count: int) -> Iterator[SavedStages]:
    """Opens what is saved of a calibration with this `fingerprint`; what is of another is removed. The folder stays
    where a stage is done, however the block ends. The caller sees to it that no other run uses it."""
    if folder.is_symlink() or folder.is_file():  # not ours; what a link leads to is left alone
        folder.unlink()
    folder.mkdir(exist_ok=True)
    if (folder / JOURNAL).is_symlink():
        (folder / JOURNAL).unlink()
    try:
        with (folder / JOURNAL).open("a+b") as file:
            yield SavedStages(folder, Journal(file, fingerprint), count)
    finally:
        if not count_saved(folder, fingerprint, count):
            shutil.rmtree(folder, ignore_errors=True)


def count_saved(folder: Path, fingerprint: str, count: int) -> int:
    """How many of the `count` stages of the calibration with this `fingerprint` are done by the journal in a folder,
    whether the files are intact or not."""
    journal = folder / JOURNAL
    if folder.is_symlink() or not journal.is_file():
        return 0
    first, *lines = journal.read_bytes().splitlines() or [b""]
    if first != fingerprint.encode():
        return 0
    parts, states = (sum(kind in line for line in lines) for kind in (b" parts-", b" states-"))
    return count if parts >= count else min(parts, states)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def file_checksum(path: Path) -> str:
    """CRC-32 of a whole file."""
    with path.open("rb") as file:
        return read_checksum(file, path.stat().st_size)
