"""Before anything is loaded the ranks meet: each says what it is and has, and all go on, or none, with one reason."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from elm_mlx.device.backend import mx
from elm_mlx.distributed.channel import LONG, Channel, Closed, Message
from elm_mlx.distributed.guard import guarding
from elm_mlx.distributed.hello import MOST_TEXT, Facts, Hello, hello_message, hello_of, judge
from elm_mlx.distributed.hosts import Hosts, capital, joined
from elm_mlx.distributed.part import Kind
from elm_mlx.distributed.ranks import Ranks
from elm_mlx.distributed.reception import HELLO_S, Reception
from elm_mlx.distributed.watch import STEP, STEP_S, Patience, Watch, end_process, seconds_in
from elm_mlx.errors import RankFailed

JOIN, JOIN_S = "ELM_MLX_JOIN_SECONDS", 60.0
ASK_AGAIN_S = 0.2


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


# Rank 0


def meet_as_leader(hosts: Hosts, own: Hello, until: float) -> dict[int, Channel]:
    """Waits for all ranks, judges them, and tells them: the connections by rank. Raises RankFailed."""
    reception = Reception(hosts, own.job)
    channels = reception.channels
    try:
        reception.wait(until)
        hellos = {0: own, **reception.hellos}
        sentence = missing(hosts, hellos) if len(hellos) < hosts.ranks else judge(hellos, hosts)
        gone = [rank for rank in channels if not sentence and not channels[rank].send_if_free({"welcome": True}, 1.0)]
    finally:
        reception.close()
    if gone:
        sentence = f"{capital(hosts.name(gone[0]))} has ended, and with it all ranks."
    if sentence:
        for channel in channels.values():  # a rank that was welcomed takes the second word
            channel.send_if_free({"refused": sentence, "verdict": sentence}, 1.0)
        raise RankFailed(sentence)
    return dict(channels)


def missing(hosts: Hosts, hellos: Mapping[int, Hello]) -> str:
    """The sentence for ranks that did not come."""
    names = [hosts.name(rank) for rank in range(hosts.ranks) if rank not in hellos]
    host, port = hosts.control
    return (f"{capital(joined(names))} did not come: see whether it runs, and reaches {host}, port {port}, within "
            f"{seconds_in(JOIN, JOIN_S):g} seconds ({JOIN}).")  # fmt: skip


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
            if answer and isinstance(sentence := answer.get("refused") or answer.get("verdict"), str):
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
    try:
        channel.send(hello_message(own))
    except Closed:
        channel.close()
        return None
    return channel


def awaited(channel: Channel, until: float) -> Message | None:
    """The answer to a hello; None where the connection was closed instead, or none came in time."""
    with suppress(Closed):
        return channel.receive(until)
    return None
