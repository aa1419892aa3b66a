"""How many requests of a model may be unanswered at a time."""

from __future__ import annotations

import threading

from elm_mlx.errors import QueueFull


class Places:
    """The places of a model's unanswered requests, `most` in all: any thread takes one and gives it back. A patient
    request, whose caller bounds the number of such, needs none."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self._lock = threading.RLock()

    def take(self, is_patient: bool = False) -> None:
        """Takes a place for a request. Raises QueueFull."""
        with self._lock:
            if self.taken >= self.most and not is_patient:
                raise QueueFull(f"{self.taken} requests are unanswered, as many as this model takes.",
                                "Wait for some to end, or load the model with a larger {queue}.")  # fmt: skip
            self.taken += not is_patient

    def give_back(self, is_patient: bool = False) -> None:
        """Gives the place of a request back, which is answered or was refused."""
        with self._lock:
            self.taken -= not is_patient
