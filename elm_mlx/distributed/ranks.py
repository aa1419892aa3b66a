"""One process among the ranks that hold a model together, as loading and the engines use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from elm_mlx.device.backend import mx
from elm_mlx.distributed.channel import Channel, Message
from elm_mlx.distributed.hosts import Hosts
from elm_mlx.distributed.part import Kind, Part
from elm_mlx.distributed.watch import Watch
from elm_mlx.errors import EngineStopped, RankFailed


class Ranks:
    """Rank `rank` of so many `ranks`. `group` is MLX's, for collectives, which every rank must build in one order.

    With `kind` None each rank has the whole model, which shows that all of them take the same steps. Call `close` at
    the end, on the thread that computes.
    """

    def __init__(
        self,
        hosts: Hosts,
        kind: Kind | None,
        watch: Watch,
        channels: Mapping[int, Channel],
        group: mx.distributed.Group,
    ) -> None:
        self.hosts, self.kind, self.watch, self.group = hosts, kind, watch, group
        self.rank, self.ranks = hosts.rank, hosts.ranks
        self._channels = channels
        self._steps = count(1)
        self._is_closed = False

    @property
    def part(self) -> Part | None:
        """Which part of the model this rank holds; None for all of it."""
        return Part(self.kind, self.rank, self.ranks) if self.kind else None

    @property
    def has_failed(self) -> bool:
        """Whether a rank has failed, and with it the run."""
        return self.watch.failed is not None

    def agree(self, ids: mx.array, peaks: mx.array) -> tuple[mx.array, mx.array]:
        """The ids [B] that rank 0 has drawn, and the peaks [B] of its logits, on every rank: one collective, not
        evaluated. What is given by others is not looked at, but it is computed first, so that all collectives before
        it come before it on every rank."""
        both = mx.concatenate([ids.astype(mx.int32), peaks.astype(mx.float32).view(mx.int32)])
        those = mx.distributed.all_sum(both if self.rank == 0 else both * 0, group=self.group)
        return those[: len(ids)].astype(ids.dtype), those[len(ids) :].view(mx.float32)

    def tell(self, message: Message) -> None:
        """Sends a message of rank 0 to all others. Raises Closed where one has ended."""
        for channel in self._channels.values():
            channel.send(message)

    def told(self) -> Message:
        """The next message of rank 0 to this rank; waits for it. Raises RankFailed."""
        return self._next()[1]

    def gather(self, own: Message) -> list[dict[str, Any]]:
        """What every rank gives, by rank, on every rank; waits for all. Raises RankFailed."""
        if self.rank:
            self._channels[0].send({"gives": own})
            found: list[dict[str, Any]] = self.told()["all"]
            return found
        given = {0: own}
        while len(given) < self.ranks:
            rank, message = self._next()
            given[rank] = message["gives"]
        found = [given[rank] for rank in range(self.ranks)]
        self.tell({"all": found})
        return found

    def _next(self) -> tuple[int, Message]:
        found = self.watch.inbox.get()
        if isinstance(found, RankFailed):
            self.watch.inbox.put(found)  # for whoever asks next
            raise found
        return found

    @contextmanager
    def in_step(self) -> Iterator[int]:
        """Lets the others know that this rank is in its next step, whose number it gives."""
        number = next(self._steps)
        self.watch.begin_step(number)
        try:
            yield number
        finally:
            self.watch.end_step()

    def fail(self, error: BaseException) -> RankFailed:
        """Tells all ranks of an error of this one, and returns the error that all of them get."""
        if isinstance(error, RankFailed):
            return error
        return self.watch.fail(str(error) if type(error).__module__.startswith("elm_mlx") else f"{error!r:.300}")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Ends all ranks with RankFailed for whatever goes wrong inside on this one. Raises EngineStopped where they
        have parted."""
        if self._is_closed:
            raise EngineStopped("The ranks have parted: their model was closed.", "Start all of them anew.")
        try:
            yield
        except RankFailed:
            raise
        except Exception as error:
            raise self.fail(error) from error

    def close(self) -> None:
        """Ends the run: rank 0 tells the others, and all wait for each other, since a rank that ended amid another's
        collective would fail it."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self.has_failed:
            with suppress(Exception), self.in_step():
                self.watch.expect_end()
                if self.rank == 0:
                    self.tell({"close": True})
                mx.eval(mx.distributed.all_sum(mx.array([1]), group=self.group))
        self.watch.close()
