"""What all answers of a job have in common; and what follows from it and an id alone, so that neither the order of the
lines nor a second start of the job changes anything."""

from __future__ import annotations

from dataclasses import dataclass

from elm_mlx.jobs.ask import Id
from elm_mlx.seeds import hash_of, seed_of


@dataclass(frozen=True)
class Origin:
    """The model, by the name that answers give it, and the seed of a job."""

    model: str
    seed: int

    def seed_of(self, id: Id) -> int:
        """The seed of the line with this id: the first 8 bytes of SHA-256 over the JSON text [seed, id], as a whole
        number, the highest byte first."""
        return seed_of(self.seed, id)

    def name_of(self, id: Id) -> str:
        """A name for the answer to the line with this id: 24 hexadecimal digits, of later bytes of the same hash."""
        return hash_of(self.seed, id)[8:20].hex()
