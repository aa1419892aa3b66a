"""A thread on every rank that hears from the others: one that ends, hangs or fails is named to all, and all end."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NamedTuple

from elm_mlx.arguments import shown
from elm_mlx.distributed.channel import Channel, Closed, Message
from elm_mlx.distributed.hosts import Hosts, capital, joined
from elm_mlx.errors import InvalidRequest, RankFailed

BEAT_S = 1.0  # between two signs of life
SILENCE_S = 10.0  # without any: then a rank counts as stopped
GRACE_S = 0.5  # a step that failed is no cause where a rank has ended: its neighbours' steps fail by that
VERDICT_S = 2.0  # that a rank waits for rank 0 to say who failed
EXIT_S = 2.0  # from then on for the process to end by itself; the device's thread may hang for ever
ALARM_S = 10  # and for Python to end, whose last steps take seconds on a busy machine
MOST_WHAT = 2000  # characters of what a rank says of its failure
STEP, STEP_S = "ELM_MLX_STEP_SECONDS", 60.0


class Beat(NamedTuple):
    """The step that a rank has begun last, and for how many seconds it has been in it; below 0 where it waits for the
    next one."""

    step: int = 0
    seconds: float = -1.0


@dataclass(frozen=True)
class Patience:
    """Seconds that are waited for signs of life, for the end of a step, and beside the former for the first sign: as
    long as MLX connects a rank, it gives none."""

    silence: float = SILENCE_S
    step: float = STEP_S
    first: float = 0.0


def seconds_in(name: str, default: float) -> float:
    """A number of seconds in the environment. Raises InvalidRequest for what is none."""
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 < value <= 1e6:
        raise InvalidRequest(f"{name} is {shown(text)}; it must be a number of seconds above 0.")
    return value


class Watch:
    """Hears from the other ranks: rank 0 from all, the others from rank 0, through `channels` by rank.

    What is no sign of life goes into the `inbox`, as (rank, message). Where a rank fails, every rank writes one
    sentence that names it to stderr, puts the error into its inbox, calls its `listeners` with it, and ends the process
    with the error's exit code, at the latest EXIT_S later.
    """

    def __init__(
        self, hosts: Hosts, channels: Mapping[int, Channel], patience: Patience, end: Callable[[RankFailed], None]
    ) -> None:
        """`end` has the process end soon."""
        self.hosts, self.patience, self._end = hosts, patience, end
        self.inbox: SimpleQueue[tuple[int, Message] | RankFailed] = SimpleQueue()
        self.listeners: list[Callable[[RankFailed], None]] = []
        self.failed: RankFailed | None = None
        self._channels = dict(channels)
        self._beats = dict.fromkeys(self._channels, Beat())
        self._heard = dict.fromkeys(self._channels, time.monotonic() + patience.first)
        self._own, self._begun = 0, 0.0  # the step, and when it began; 0 between steps
        self._reports: list[tuple[int, str]] = []  # steps that failed, by rank
        self._decide_at = self._beat_at = 0.0
        self._is_decided = threading.Event()
        self._is_closing = self._is_over = False
        self._bell, self._button = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="elm-mlx ranks", daemon=True)
        self._thread.start()

    # In any thread

    def begin_step(self, number: int) -> None:
        """Notes that this rank begins a step."""
        self._own, self._begun = number, time.monotonic()

    def end_step(self) -> None:
        """Notes that this rank has ended its step."""
        self._begun = 0.0

    def fail(self, what: str) -> RankFailed:
        """Tells all ranks that this one failed, and returns the error that all of them get: another one may be its
        cause."""
        if self.hosts.rank and (leader := self._channels.get(0)):
            leader.send_if_free({"report": what[:MOST_WHAT]}, GRACE_S)
        self._report(self.hosts.rank, what)
        self._press()
        self._is_decided.wait(VERDICT_S + GRACE_S + EXIT_S)
        return self.failed or RankFailed(self._failed_in(self.hosts.rank, what))

    def expect_end(self) -> None:
        """From now on connections that close are no failure."""
        self._is_closing = True

    def close(self) -> None:
        """Ends the thread, unless the run has failed: then it ends the process."""
        self._is_closing = True
        if not self.failed:
            self._is_over = True
            self._press()
            self._thread.join(GRACE_S)
            for channel in self._channels.values():
                channel.close()
            self._bell.close()
            self._button.close()

    def _press(self) -> None:
        with suppress(OSError):
            self._button.send(b".")

    # In the thread

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # without it nobody would hear of a rank that fails
            if not self._is_over:  # else its connections were closed
                self._conclude(self._failed_in(self.hosts.rank, f"what watches the ranks raised {error!r:.300}"))

    def _watch(self) -> None:
        while not self._is_over:
            begun = time.monotonic()
            self._hear(max(0.0, min(self._beat_at, self._decide_at or self._beat_at) - begun))
            now = time.monotonic()
            if self._decide_at and now >= self._decide_at:
                self._decide_at = 0.0
                rank, what = self._reports[0]
                self._conclude(self._failed_in(rank, what))
            if now >= self._beat_at:
                self._beat_at = now + BEAT_S
                self._beat(now)
                if now - begun < 2 * BEAT_S:  # else this process was stopped itself, and has not heard what is there
                    self._judge(now)

    def _hear(self, patience: float) -> None:
        """Waits for what the others send, and takes it."""
        bell, by_number = self._bell.fileno(), {channel.fileno(): rank for rank, channel in self._channels.items()}
        for number in select.select([bell, *by_number], [], [], patience)[0]:
            if number == bell:
                self._bell.recv(64)
            elif (rank := by_number[number]) in self._channels:
                self._hear_from(rank)

    def _hear_from(self, rank: int) -> None:
        try:
            messages = self._channels[rank].arrived()
        except Closed:
            return self._lose(rank)
        self._heard[rank] = time.monotonic()
        for message in messages:
            self._take(rank, message)

    def _take(self, rank: int, message: Message) -> None:
        match message:
            case {"beat": [int(step), int() | float() as seconds]}:
                self._beats[rank] = Beat(step, float(seconds))
            case {"report": str(what)} if self.hosts.rank == 0:
                self._report(rank, what[:MOST_WHAT])
            case {"verdict": str(sentence)} if rank == 0:
                self._channels[0].send_if_free({"heard": True})
                self._conclude(sentence)
            case {"close": _} if rank == 0:
                self._is_closing = True
                self.inbox.put((rank, message))
            case {"heard": _}:
                pass
            case _:
                self.inbox.put((rank, message))

    def _report(self, rank: int, what: str) -> None:
        """Notes that a rank's step failed. Rank 0 decides in a moment, and the others wait for that."""
        self._reports.append((rank, what))
        wait = VERDICT_S if self.hosts.rank else GRACE_S
        self._decide_at = self._decide_at or time.monotonic() + wait

    def _lose(self, rank: int) -> None:
        """A rank has closed its connection."""
        channel = self._channels.pop(rank)
        self._beats.pop(rank, None)
        reported = [what for reporter, what in self._reports if reporter == rank]
        if reported:
            self._conclude(self._failed_in(rank, reported[0]))
        elif not self._is_closing:
            self._conclude(f"{self._name(rank)} has ended, and with it all ranks.")
        channel.close()

    def _beat(self, now: float) -> None:
        """Gives the others a sign of life."""
        beat = [self._own, now - self._begun if self._begun else -1.0]
        for channel in self._channels.values():
            channel.send_if_free({"beat": beat})

    def _judge(self, now: float) -> None:
        """Looks whether a rank has stopped, or hangs."""
        for rank in self._channels:
            if now - self._heard[rank] > self.patience.silence:
                return self._conclude(f"{self._name(rank)} has given no sign of life for {self.patience.silence:g} "
                                      "seconds: it is stopped, or cannot be reached.")  # fmt: skip
        if self.hosts.rank == 0:
            own = Beat(self._own, now - self._begun if self._begun else -1.0)
            if sentence := hanging({0: own, **self._beats}, self.patience.step, self._name):
                self._conclude(sentence)

    def _name(self, rank: int) -> str:
        return capital(self.hosts.name(rank))

    def _failed_in(self, rank: int, what: str) -> str:
        return f"{self._name(rank)} failed: {what}"

    def _conclude(self, sentence: str) -> None:
        """Tells all ranks, and this process, once."""
        if self.failed:
            return
        failed = RankFailed(sentence)
        write_error(sentence)
        failed.is_told = True
        if self.hosts.rank == 0:
            self._tell_all(sentence)
        self.failed = failed
        self.inbox.put(failed)
        self._is_decided.set()
        self._end(failed)
        for call in self.listeners:
            call(failed)

    def _tell_all(self, sentence: str) -> None:
        """Tells the others, and waits a moment until they have heard: what this process sends may be lost where it ends
        at once."""
        self._is_closing = True
        told = {rank for rank, channel in self._channels.items() if channel.send_if_free({"verdict": sentence})}
        until = time.monotonic() + GRACE_S
        while told and (left := until - time.monotonic()) > 0:
            ready = select.select([self._channels[rank] for rank in told], [], [], left)[0]
            for rank in [rank for rank in told if self._channels[rank] in ready]:
                try:
                    heard = any("heard" in message for message in self._channels[rank].arrived())
                except Closed:
                    heard = True
                told -= {rank} if heard else set()


def hanging(beats: Mapping[int, Beat], patience: float, name: Callable[[int], str]) -> str | None:
    """A sentence about the ranks for which others wait longer than `patience` seconds in a step, if there are any:
    those that have not begun it; where all have, one of them hangs in it."""
    if max(beat.seconds for beat in beats.values()) < patience:
        return None
    last = max(beat.step for beat in beats.values())
    if behind := [name(rank) for rank, beat in beats.items() if beat.step < last]:
        return f"{joined(behind)} did not come to step {last}, where others wait, in {patience:g} seconds ({STEP})."
    inside = [name(rank) for rank, beat in beats.items() if beat.seconds >= 0]
    return f"{joined(inside)} did not end step {last} in {patience:g} seconds ({STEP}): what computes there hangs."


def write_error(sentence: str) -> None:
    """Writes an error as the command line does."""
    with suppress(OSError, ValueError, AttributeError):  # whoever read stderr has left
        printable = "".join(c if c.isprintable() else " " for c in sentence)
        sys.stderr.write(f"Error: {printable}\n")
        sys.stderr.flush()


def end_process(error: RankFailed) -> None:
    """Has the process end soon with the error's exit code, whatever its threads do. Where even Python hangs, an alarm
    ends it, with another code."""

    def leave() -> None:
        time.sleep(EXIT_S)
        os._exit(error.exit_code)

    threading.Thread(target=leave, name="elm-mlx end", daemon=True).start()
    signal.alarm(ALARM_S)
