"""Where in a Hugging Face cache a directory lies, by its path alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SNAPSHOT = re.compile(r"(.*/models--([\w.-]+))/snapshots/([\w.-]+)(/|$)", re.ASCII)


@dataclass(frozen=True)
class Snapshot:
    """A commit of a repository as a cache holds it, in the repository's `folder` there."""

    folder: Path
    repository: str
    commit: str

    @property
    def path(self) -> Path:
        """The directory with the commit's files."""
        return self.folder / "snapshots" / self.commit


def snapshot_at(directory: Path) -> Snapshot | None:
    """The snapshot that a directory is or lies in, in any cache; None elsewhere."""
    found = SNAPSHOT.match(directory.resolve().as_posix())
    return Snapshot(Path(found[1]), found[2].replace("--", "/", 1), found[3]) if found else None
