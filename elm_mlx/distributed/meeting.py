"""Before anything is loaded the ranks meet: each says what it is and has, and all go on, or none, with one reason."""

from __future__ import annotations

import platform
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from elm_mlx import __version__
from elm_mlx.arguments import shown
from elm_mlx.device.backend import mx
from elm_mlx.distributed.channel import LONG, Channel, Closed, Message
from elm_mlx.distributed.guard import guarding
from elm_mlx.distributed.hosts import Hosts
from elm_mlx.distributed.part import Kind
from elm_mlx.distributed.ranks import Ranks
from elm_mlx.distributed.watch import STEP, STEP_S, Patience, Watch, capital, end_process, joined, seconds_in
from elm_mlx.errors import AddressInUse, ElmError, RankFailed
from elm_mlx.files import readable_size

JOIN, JOIN_S = "ELM_MLX_JOIN_SECONDS", 60.0
PROTOCOL = 1  # of the messages: a rank with another one speaks another language
HELLO_S = 5.0  # that a connection has to say what it is
MOST_STRANGERS = 64  # connections that have not said it yet
ASK_AGAIN_S = 0.2
MOST_TEXT = 4000  # characters of a value in a hello


@dataclass(frozen=True)
class Facts:
    """What a rank says of itself: the `model` as it is named there, a `fingerprint` of its files, the bytes that its
    part `needs` and those that are `free` (0: not asked), and its versions of what computes."""

    model: str
    fingerprint: str
    needs: int = 0
    free: int = 0
    versions: Mapping[str, str] = field(default_factory=lambda: versions_here())


@dataclass(frozen=True)
class Hello:
    """The first message of a rank: who it is, its `facts`, the `settings` that must be alike, or why it cannot
    begin."""

    rank: int
    ranks: int
    job: str
    settings: Mapping[str, Any]
    facts: Facts | None = None
    trouble: str = ""


class NoHello(ElmError):
    """What a connection says is no hello of a rank of this run."""


def versions_here() -> dict[str, str]:
    """The versions that must be equal on all ranks, and Python's."""
    return {"elm-mlx": __version__, "mlx": version("mlx"), "Python": platform.python_version()}


def join(kind: Kind | None, facts: Facts | Callable[[], Facts], settings: Mapping[str, Any], hosts: Hosts) -> Ranks:
    """Meets the other ranks, and makes MLX's group once all of them go together.

    `kind` says how the model is cut, and `settings` what else must be alike, as plain values of JSON. Where `facts` is
    called, what it raises is told to the others. Raises RankFailed, on every rank with one reason, where a rank has
    another model, other versions or settings, too little memory or trouble of its own, or does not come within
    ELM_MLX_JOIN_SECONDS; InvalidRequest for values of the environment without a meaning; AddressInUse.
    """
    patience = Patience(step=seconds_in(STEP, STEP_S), first=seconds_in(JOIN, JOIN_S))
    until = time.monotonic() + seconds_in(JOIN, JOIN_S)
    hello = hello_of(facts, {"parallel": kind, **settings}, hosts)
    meet = meet_as_leader if hosts.rank == 0 else meet_leader
    channels = meet(hosts, hello, until)
    group, trouble = connect(hosts, channels)
    watch = Watch(hosts, channels, patience, end_process)
    if not group:
        raise watch.fail(trouble)
    return Ranks(hosts, kind, watch, channels, group)


def connect(hosts: Hosts, channels: Mapping[int, Channel]) -> tuple[mx.distributed.Group | None, str]:
    """(MLX's group, or None; why there is none). Where a rank ends meanwhile, so does this process: it cannot do
    anything else (guard)."""
    names = {channel.fileno(): capital(hosts.name(rank)) for rank, channel in channels.items()}
    try:
        with guarding(names, hosts.rank == 0, seconds_in(JOIN, JOIN_S)):
            group = mx.distributed.init(strict=True, backend=hosts.backend)
    except (RuntimeError, ValueError) as error:
        return None, f"MLX could not connect the ranks: {error}"
    if (group.rank(), group.size()) != (hosts.rank, hosts.ranks):
        return None, f"MLX takes it for rank {group.rank()} of {group.size()}."
    return group, ""


def hello_of(facts: Facts | Callable[[], Facts], settings: Mapping[str, Any], hosts: Hosts) -> Hello:
    """What this rank says first."""
    known = Hello(hosts.rank, hosts.ranks, hosts.job, settings)
    try:
        found = facts if isinstance(facts, Facts) else facts()
    except ElmError as error:
        return Hello(known.rank, known.ranks, known.job, settings, trouble=str(error)[:MOST_TEXT])
    return Hello(known.rank, known.ranks, known.job, settings, found)


# Rank 0


def meet_as_leader(hosts: Hosts, own: Hello, until: float) -> dict[int, Channel]:
    """Waits for all ranks, judges them, and tells them: the connections by rank. Raises RankFailed."""
    reception = Reception(hosts, own.job)
    try:
        reception.wait(until)
        hellos = {0: own, **reception.hellos}
        if sentence := missing(hosts, hellos, until) if len(hellos) < hosts.ranks else judge(hellos, hosts):
            for channel in reception.channels.values():
                channel.send_if_free({"refused": sentence}, 1.0)
            raise RankFailed(sentence)
        for channel in reception.channels.values():
            channel.send({"welcome": True})
    except Closed as error:
        raise RankFailed(f"A rank ended while all met. {error}") from error
    finally:
        reception.close()
    return dict(reception.channels)


class Reception:
    """Takes connections until every rank has said hello. What is none of them is sent away, and disturbs nobody."""

    def __init__(self, hosts: Hosts, job: str) -> None:
        self.hosts, self.job = hosts, job
        self.hellos: dict[int, Hello] = {}
        self.channels: dict[int, Channel] = {}
        self._unknown: dict[Channel, float] = {}  # until when each has time to say what it is
        self._selector = selectors.DefaultSelector()
        self._door = listen(hosts)
        self._selector.register(self._door, selectors.EVENT_READ)

    def wait(self, until: float) -> None:
        """Returns when all ranks are there, or the time is over, or one has ended."""
        while len(self.hellos) < self.hosts.ranks - 1 and (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(min(left, 1.0)):
                if key.fileobj is self._door:
                    self._open()
                else:
                    self._hear(key.data)
            for channel in [one for one, end in self._unknown.items() if end < time.monotonic()]:
                self._send_away(channel, "")

    def _open(self) -> None:
        with suppress(OSError):
            connection, _ = self._door.accept()
            channel = Channel(connection)
            if len(self._unknown) >= MOST_STRANGERS:
                return channel.close()
            self._unknown[channel] = time.monotonic() + HELLO_S
            self._selector.register(connection, selectors.EVENT_READ, channel)

    def _hear(self, channel: Channel) -> None:
        try:
            messages = channel.arrived()
        except Closed:
            return self._lose(channel)
        if not messages or channel not in self._unknown:
            return
        try:
            hello = read_hello(messages[0], self.hosts, self.job)
            if hello.rank in self.hellos:
                raise NoHello(f"There is a rank {hello.rank} already.")
        except NoHello as error:
            return self._send_away(channel, str(error))
        del self._unknown[channel]
        self.hellos[hello.rank], self.channels[hello.rank] = hello, channel

    def _lose(self, channel: Channel) -> None:
        """A connection has closed. A rank may come again until all are there."""
        for rank in [rank for rank, one in self.channels.items() if one is channel]:
            del self.channels[rank], self.hellos[rank]
        self._send_away(channel, "")

    def _send_away(self, channel: Channel, why: str) -> None:
        self._unknown.pop(channel, None)
        self._selector.unregister(channel.socket)
        if why:
            channel.send_if_free({"refused": why})
        channel.close()

    def close(self) -> None:
        """Lets nobody in any more."""
        for channel in [*self._unknown]:
            self._send_away(channel, "")
        self._selector.close()
        self._door.close()


def listen(hosts: Hosts) -> socket.socket:
    """Listens for the other ranks. Raises AddressInUse."""
    host, port = hosts.control
    try:
        return socket.create_server((host, port), family=family_of(host), backlog=MOST_STRANGERS)
    except OSError as error:
        raise AddressInUse(
            f"Rank 0 cannot listen for the other ranks at {host}, port {port}: {error}.",
            "Begin with another port, and see that this is the machine of rank 0.",
        ) from error


def family_of(host: str) -> socket.AddressFamily:
    """The family of an IP address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def read_hello(message: Message, hosts: Hosts, job: str) -> Hello:
    """Reads a hello, of a stranger perhaps. Raises NoHello."""
    match message:
        case {
            "hello": int(protocol),
            "rank": int(rank),
            "ranks": int(ranks),
            "job": str(word),
            "settings": dict(settings),
        }:
            pass
        case _:
            raise NoHello("That is no hello of a rank.")
    if word != job:
        raise NoHello("That rank belongs to another run.")
    if protocol != PROTOCOL:
        raise NoHello("That rank has another version of elm-mlx.")
    if ranks != hosts.ranks or not 0 < rank < ranks:
        raise NoHello(f"Rank {rank} of {ranks} is none of these {hosts.ranks} ranks.")
    if trouble := message.get("trouble"):
        return Hello(rank, ranks, word, settings, trouble=str(trouble)[:MOST_TEXT])
    return Hello(rank, ranks, word, settings, read_facts(message.get("facts")))


def read_facts(value: object) -> Facts:
    """Reads what a rank says of itself. Raises NoHello."""
    match value:
        case {
            "model": str(model),
            "fingerprint": str(fingerprint),
            "needs": int(needs),
            "free": int(free),
            "versions": dict(versions),
        } if all(isinstance(version, str) for version in versions.values()):
            return Facts(model, fingerprint, needs, free, versions)
    raise NoHello("That is no hello of a rank.")


def missing(hosts: Hosts, hellos: Mapping[int, Hello], until: float) -> str:
    """The sentence for ranks that did not come."""
    names = [hosts.name(rank) for rank in range(hosts.ranks) if rank not in hellos]
    host, port = hosts.control
    return (f"{capital(joined(names))} did not come: see whether it runs, and reaches {host}, port {port}, within "
            f"{seconds_in(JOIN, JOIN_S):g} seconds ({JOIN}).")  # fmt: skip


def judge(hellos: Mapping[int, Hello], hosts: Hosts) -> str | None:
    """Why these ranks do not go together, in a sentence that names one of them; None where they do."""
    leader = hellos[0]
    for rank in sorted(hellos):
        one, name = hellos[rank], capital(hosts.name(rank))
        if one.trouble or not one.facts:
            return f"{name} cannot begin: {one.trouble}"
        if leader.facts and (why := differs(one, one.facts, leader, leader.facts)):
            return f"{name} {why}"
        if one.facts.needs > one.facts.free:
            return (f"{name} has too little memory: its part of the model takes {readable_size(one.facts.needs)}, and "
                    f"{readable_size(one.facts.free)} are free there.")  # fmt: skip
    return None


def differs(one: Hello, facts: Facts, leader: Hello, wanted: Facts) -> str | None:
    """How a rank differs from rank 0 in what must be alike."""
    for name in ("elm-mlx", "mlx"):
        if (here := facts.versions.get(name)) != (there := wanted.versions.get(name)):
            return f"has {name} {here}, and rank 0 has {there}: install one version on all machines."
    for name in {**leader.settings, **one.settings}:
        if (own := one.settings.get(name)) != (other := leader.settings.get(name)):
            return f"was given {name} {shown(own)}, and rank 0 {shown(other)}: give all ranks the same."
    if facts.fingerprint != wanted.fingerprint:
        return (f"has another model than rank 0: its files, of {shown(facts.model)}, differ from those of "
                f"{shown(wanted.model)} on rank 0. Copy one directory to all machines.")  # fmt: skip
    return None


# The other ranks


def meet_leader(hosts: Hosts, own: Hello, until: float) -> dict[int, Channel]:
    """Says hello to rank 0, as soon as it listens, and waits for its answer: the connection to it. Raises
    RankFailed."""
    while time.monotonic() < until:
        if channel := reach(hosts, own):
            answer = awaited(channel, until + 2 * HELLO_S)  # it waits for all ranks, perhaps from later on
            if answer is not None and answer.get("welcome") is True:
                channel.most = LONG
                return {0: channel}
            channel.close()
            if answer is not None and isinstance(sentence := answer.get("refused"), str):
                raise RankFailed(sentence[:MOST_TEXT])
        time.sleep(ASK_AGAIN_S)
    host, port = hosts.control
    raise RankFailed(f"{capital(hosts.name(0))} did not come: no rank 0 answered at {host}, port {port}, within "
                     f"{seconds_in(JOIN, JOIN_S):g} seconds ({JOIN}).")  # fmt: skip


def reach(hosts: Hosts, own: Hello) -> Channel | None:
    """A connection to rank 0 that has got the hello; None where nothing listens yet."""
    try:
        channel = Channel(socket.create_connection(hosts.control, timeout=HELLO_S))
    except OSError:
        return None
    facts = {"facts": vars(own.facts) | {"versions": dict(own.facts.versions)}} if own.facts else {}
    try:
        channel.send({
            "hello": PROTOCOL, "rank": own.rank, "ranks": own.ranks, "job": own.job, "settings": dict(own.settings),
            "trouble": own.trouble, **facts,
        })  # fmt: skip
    except Closed:
        channel.close()
        return None
    return channel


def awaited(channel: Channel, until: float) -> Message | None:
    """The answer to a hello; None where the connection was closed instead, or none came in time."""
    with suppress(Closed):
        return channel.receive(until)
    return None
