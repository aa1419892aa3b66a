"""The clients of `server.py`, all in one process and one thread: raw sockets, so that they take little of the machine.

    python benchmarks/server_load.py

Each line of stdin is an object with a `port`, a `path` and `bodies`, one for each client: all of them are sent at the
same moment, and the line that answers holds for each body `begun`, `first_byte`, `first_token` and `ended` in seconds
of this process's clock, and the `tokens` that the server says it gave. Answers are streams of OpenAI's completions.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

END = b"data: [DONE]"
DATA = b"data: "
PATIENCE_S = 300
ACCEPTED_S = 0.02  # after which a server has taken its connections: clients keep theirs from one request to the next
READ = 65536  # bytes


@dataclass
class Client:
    """One request over one connection, and what came back: all bytes, and when they came."""

    connection: socket.socket
    begun: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    arrivals: list[tuple[int, float]] = field(default_factory=list)  # bytes so far, and the time

    def send(self, port: int, path: str, body: bytes) -> None:
        """Sends a request in one write, so that its time is that of the whole."""
        head = (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n")  # fmt: skip
        self.begun = time.perf_counter()
        self.connection.sendall(head.encode() + body)

    def read(self) -> bool:
        """Takes what has come. Returns whether the answer goes on."""
        part = self.connection.recv(READ)
        self.received += part
        self.arrivals.append((len(self.received), time.perf_counter()))
        return bool(part) and END not in self.received[-len(part) - len(END) :]

    def time_of(self, place: int) -> float:
        """When the byte at this place came."""
        return next(moment for count, moment in self.arrivals if count > place)

    def report(self) -> dict[str, Any]:
        """What the caller learns of this request. Exits where the answer was an error, or was cut."""
        if END not in self.received:
            sys.exit(f"The answer has no end: {bytes(self.received[-500:])!r}")
        first_token, tokens = None, None
        for place, event in events(bytes(self.received)):
            if first_token is None and any(choice["text"] for choice in event["choices"]):
                first_token = self.time_of(place)
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
        return {"begun": self.begun, "first_byte": self.arrivals[0][1], "first_token": first_token,
                "ended": self.arrivals[-1][1], "tokens": tokens}  # fmt: skip


def events(received: bytes) -> list[tuple[int, dict[str, Any]]]:
    """The events of a stream, each with the place of its last byte. Servers send an event in one piece, so that the
    lengths of HTTP's chunks never lie inside one."""
    found, place = [], received.find(DATA)
    while not received.startswith(END, place):
        ended = received.index(b"\n\n", place)
        found.append((ended + 1, json.loads(received[place + len(DATA) : ended])))
        place = received.index(DATA, ended)
    return found


def together(port: int, path: str, bodies: list[Any]) -> list[dict[str, Any]]:
    """Sends all bodies at the same moment, each over a connection that is open before, and reads the answers."""
    clients = [Client(socket.create_connection(("127.0.0.1", port), PATIENCE_S)) for _ in bodies]
    time.sleep(ACCEPTED_S)
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.connection, selectors.EVENT_READ, client)
        for client, body in zip(clients, bodies, strict=True):
            client.send(port, path, json.dumps(body).encode())
        while selector.get_map():
            for key, _ in selector.select(PATIENCE_S) or sys.exit("No answer came."):
                if not key.data.read():
                    selector.unregister(key.fileobj)
    for client in clients:
        client.connection.close()
    return [client.report() for client in clients]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for line in sys.stdin:
        print(json.dumps(together(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
