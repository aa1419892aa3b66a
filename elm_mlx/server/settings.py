"""What a server is told when it starts, and the bounds within which it serves strangers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from elm_mlx.distributed.part import Kind
from elm_mlx.errors import InvalidRequest

FIVE_MINUTES_S = 300.0
PORT = 8080
ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+/?", re.IGNORECASE)
NO_KEY = "Anyone who reaches {} could use the models and this machine's time."


@dataclass(frozen=True)
class Limits:
    """The bounds of a server: how many connections there may be, how many bytes and headers a request may have, and how
    many seconds a client may take. Their defaults suit a machine with a few users."""

    connections: int = 256
    header_bytes: int = 32 << 10
    headers: int = 100
    header_s: float = 10.0  # for the first line and the headers, from their first byte
    idle_s: float = 30.0  # of a connection between two requests
    body_bytes: int = 8 << 20
    bodies_bytes: int = 256 << 20  # of all requests together
    body_s: float = 30.0
    write_s: float = 30.0  # until a client has taken what is sent
    linger_s: float = 2.0  # in which a client may send the rest of a request that was refused
    drain_s: float = 10.0  # in which running requests may end when the server is to stop


@dataclass(frozen=True)
class Settings:
    """How a server is to run.

    `models` are names or directories, without any of them the demo; `aliases` are further names of these; `adapters`
    stand beside them, each as PATH, NAME=PATH or MODEL:NAME=PATH. `pull` lets the server fetch models. `host` None
    means 127.0.0.1 and ::1; `port` 0 takes a free one; with `uds` it listens on a socket file instead. `api_key` is
    asked of every request, if there is one. `allowed_origins` are pages that may ask, "*" any; `allowed_hosts` are
    names by which clients may call this machine, beside its own.

    Up to `concurrency` requests are answered together by a model, and `max_queue` more wait. `context` bounds the
    tokens of a request, prompt and answer. A model that is idle for `keep_alive_s` is closed, below 0 never. With
    `strict` fields that nobody knows are refused. With `parallel` the one model is held by several ranks in that way,
    of which this process is rank 0.
    """

    models: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    pull: bool = False
    host: str | None = None
    port: int = PORT
    uds: str | None = None
    api_key: str | None = field(default=None, repr=False)
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_queue: int = 256
    concurrency: int = 8
    context: int | None = None
    keep_alive_s: float = FIVE_MINUTES_S
    cpu_policy: str = "auto"
    strict: bool = False
    parallel: Kind | None = None
    limits: Limits = Limits()

    def check(self) -> None:
        """Raises InvalidRequest for settings that would open the server to anyone, and for origins that are none."""
        for origin in self.allowed_origins:
            if not ORIGIN.fullmatch(origin):
                advice = "Write {allowed_origins} like http://localhost:3000, or * for every page."
                raise InvalidRequest(f"{origin!r} is not an origin, so no page would be allowed.", advice)
        if self.uds is None and self.host is not None and not is_loopback(self.host) and not self.api_key:
            raise InvalidRequest(f"{NO_KEY.format(self.host)} An address beyond this machine needs a key.",
                                 "Give an {api_key_file}, or leave {host} out.")  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host: "localhost", 127.0.0.0/8 or ::1."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
