"""When a step is handed to the device: before the ids of the step before are read, or after that.

While a step runs on Metal, it holds the buffers that it reads, so that a step which is handed over meanwhile copies
each buffer that it writes into, whole. Handed over late it copies nothing, but the device waits for the host. Which of
the two is faster depends on the bytes of the buffers, so it has to be measured while the engine runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from elm_mlx.device.execution import SUBMITS
from elm_mlx.errors import InvalidRequest

MEASURED_ON_A_MAC = False  # nobody has run this on one yet, and a policy that nobody could run is no default
TRIAL = 8  # steps that are measured each way; chosen
LEAST_BYTES = 16 * 2**20  # copying fewer takes 0.3 ms at 100 GB/s, less than a trial is worth; computed, not measured


@dataclass(frozen=True)
class Trial:
    """Median seconds of a step early and late (None: not measured yet), with buffers of about `nbytes` bytes."""

    nbytes: int = 0
    early: float | None = None
    late: float | None = None

    def is_for(self, nbytes: int) -> bool:
        """Whether the buffers have neither doubled nor halved since."""
        return self.nbytes / 2 < nbytes < self.nbytes * 2


def choose(submit: str, trial: Trial, nbytes: int, trusted: bool) -> bool:
    """Whether the next step is handed over early: as `submit` says, and for "auto" early, unless measuring is `trusted`
    and a trial with buffers of about `nbytes` bytes has to go on late, or has found late to be faster."""
    if submit != "auto":
        return submit == "early"
    if not trusted or nbytes < LEAST_BYTES or not trial.is_for(nbytes) or trial.early is None:
        return True
    return trial.late is not None and trial.early <= trial.late


class Pace:
    """Decides for each step of an engine when it is handed over, and learns from the time that steps take."""

    def __init__(self, submit: str = "auto", trusted: bool = MEASURED_ON_A_MAC) -> None:
        """`submit` is one of SUBMITS; InvalidRequest is raised for another. With `trusted`, "auto" measures."""
        if submit not in SUBMITS:
            raise InvalidRequest(f"submit is {submit!r}; it must be one of {', '.join(SUBMITS)}.")
        self.submit, self.trusted = submit, trusted
        self.trial = Trial()
        self.measures = submit == "auto" and trusted
        self._early = submit != "late"
        self._seconds: list[float] = []

    def is_early(self, nbytes: int) -> bool:
        """Whether the next step is handed over early, where the running rows' buffers have `nbytes` bytes."""
        if self.measures:
            self._decide(nbytes)
        return self._early

    def note(self, seconds: float) -> None:
        """Takes down how long the step took for which `is_early` was asked last."""
        if self.measures and self.trial.late is None:
            self._seconds.append(seconds)

    def _decide(self, nbytes: int) -> None:
        """Ends a part of the trial that has enough steps, begins a new one for other buffers, and decides."""
        if nbytes < LEAST_BYTES or not self.trial.is_for(nbytes):
            self.trial, self._seconds = Trial(nbytes), []
        elif len(self._seconds) > TRIAL and self.trial.late is None:
            found = median(self._seconds[1:])  # the first one still had to do with the step before it
            early = self.trial.early
            self.trial = Trial(self.trial.nbytes, found) if early is None else Trial(self.trial.nbytes, early, found)
            self._seconds = []
        self._early = choose(self.submit, self.trial, nbytes, self.trusted)
