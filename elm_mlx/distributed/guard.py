"""A process that watches the other ranks while MLX connects them: meanwhile no thread of the rank's own process runs,
as `mx.distributed.init` waits for its neighbours without letting Python go on, for ever where one has ended.

It looks into the connections without taking anything out of them. If a rank has ended or failed, or it takes too long,
it says so to stderr and to the others, and kills the process that it guards. Run as a script, it imports nothing of
elm_mlx, so that it is there at once.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

LOOK_S = 0.2
TOLD_S = 0.3  # for the others to hear of it before a connection closes
PEEK = 2**16
GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


@contextmanager
def guarding(connections: Mapping[int, str], is_leader: bool, seconds: float) -> Iterator[None]:
    """Guards this process inside: against the end of a rank at the other end of one of these `connections`, numbers of
    sockets with the ranks' names, and against more than so many seconds."""
    task = {
        "parent": os.getpid(),
        "seconds": seconds,
        "leads": is_leader,
        "names": {str(n): connections[n] for n in connections},
    }
    command = [sys.executable, "-I", "-S", __file__, json.dumps(task)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[*connections]) as guard:
        try:
            yield
        finally:
            assert guard.stdin
            with suppress(OSError):
                guard.stdin.close()


def main(task: dict[str, Any]) -> None:
    """Guards a process until it closes the standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    names = {int(number): name for number, name in task["names"].items()}
    until = time.monotonic() + task["seconds"]
    while time.monotonic() < until:
        if select.select([sys.stdin], [], [], LOOK_S)[0]:
            return
        if sentence := what_happened(names):
            return conclude(task, names, sentence)
    limit = f"{task['seconds']:g} seconds"
    conclude(
        task, names, f"MLX did not connect the ranks within {limit}: see whether each reaches the next one's port."
    )


def what_happened(names: Mapping[int, str]) -> str | None:
    """The sentence for a rank that has failed or ended, if one has."""
    poll = select.poll()
    for number in names:
        poll.register(number, GONE)
    gone = {number for number, _ in poll.poll(0)}
    for number, name in names.items():
        message, is_closed = peek(number)
        if "verdict" in message:
            return str(message["verdict"])
        if "report" in message:
            return f"{name} failed: {message['report']}"
        if is_closed or number in gone:
            return f"{name} has ended, and with it all ranks."
    return None


def peek(number: int) -> tuple[dict[str, Any], bool]:
    """(a message that lies in a connection and says that something failed, or an empty one; whether it is closed)."""
    with socket.socket(fileno=os.dup(number)) as connection:
        try:
            data = connection.recv(PEEK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return {}, False
        except OSError:
            return {}, True
    for message in messages_in(data):
        if "verdict" in message or "report" in message:
            return message, False
    return {}, not data


def messages_in(data: bytes) -> Iterator[dict[str, Any]]:
    """The whole messages at the beginning of some bytes, as `elm_mlx.distributed.channel` writes them."""
    while len(data) >= 4 and len(data) >= 4 + (length := struct.unpack_from(">I", data)[0]):
        with suppress(ValueError, RecursionError):
            message = json.loads(data[4 : 4 + length])
            if isinstance(message, dict):
                yield message
        data = data[4 + length :]


def conclude(task: dict[str, Any], names: Mapping[int, str], sentence: str) -> None:
    """Says what happened, here and to the ranks at the other ends, and ends the process."""
    printable = "".join(c if c.isprintable() else " " for c in sentence[:4000])
    with suppress(OSError):
        os.write(2, f"Error: {printable}\n".encode())
    data = json.dumps({"verdict" if task["leads"] else "report": printable}).encode()
    for number in names:
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            connection.send(struct.pack(">I", len(data)) + data, socket.MSG_DONTWAIT)
    time.sleep(TOLD_S)
    if os.getppid() == task["parent"]:  # else it has ended, and its number may be another's
        os.kill(task["parent"], signal.SIGKILL)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
