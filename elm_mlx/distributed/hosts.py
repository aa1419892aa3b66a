"""Where the ranks are: what MLX's launcher, or ours, says in the environment of each of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from elm_mlx.arguments import shown
from elm_mlx.errors import ElmError, InvalidRequest
from elm_mlx.files import read_bytes

RANK, RING, JACCL, COORDINATOR = "MLX_RANK", "MLX_HOSTFILE", "MLX_IBV_DEVICES", "MLX_JACCL_COORDINATOR"  # MLX's
CONTROL, JOB, PUBLIC = "ELM_MLX_CONTROL", "ELM_MLX_JOB", "ELM_MLX_PUBLIC"
MOST_BYTES = 2**20  # of a host file
MOST_RANKS = 1024
PORT = re.compile("[0-9]{1,5}")
Backend = Literal["ring", "jaccl"]
Address = tuple[str, int]
"""An IP address and a port."""


@dataclass(frozen=True)
class Hosts:
    """This process is rank `rank`; `addresses` has an IP address of each rank, empty where it is not known. Rank 0
    listens for messages at `control`, and MLX's `backend` moves arrays. With a `job`, a word, only ranks that know it
    belong together."""

    rank: int
    addresses: tuple[str, ...]
    control: Address
    backend: Backend
    job: str = ""

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.addresses)

    def name(self, rank: int) -> str:
        """A rank, with its address, as a person is told of it."""
        return f"rank {rank} ({address})" if (address := self.addresses[rank]) else f"rank {rank}"


def hosts_here(environment: Mapping[str, str] = os.environ) -> Hosts | None:
    """Reads where the ranks are; None where the process is no rank, or the only one. Raises InvalidRequest for values
    without a meaning, and for addresses that are not private."""
    if RANK not in environment or not (environment.get(RING) or environment.get(JACCL)):
        return None
    backend: Backend = "ring" if environment.get(RING) else "jaccl"
    addresses, (name, host, highest) = ring_hosts(environment) if backend == "ring" else jaccl_hosts(environment)
    if len(addresses) < 2:
        return None
    told = environment.get(CONTROL)
    control = address_in(CONTROL, told) if told else (host, port_after(name, highest))
    rank = rank_in(environment[RANK], len(addresses))
    if environment.get(PUBLIC) != "1":
        refuse_public([*addresses, control[0]])
    return Hosts(rank, tuple(addresses), control, backend, environment.get(JOB, ""))


def ring_hosts(environment: Mapping[str, str]) -> tuple[list[str], tuple[str, str, int]]:
    """(the first IP address of each rank, (the variable that names ports, rank 0's address, the highest port)): the
    host file has a list of "address:port" for each rank."""
    found = entries(RING, environment[RING])
    if not all(isinstance(rank, list) and rank for rank in found):
        raise InvalidRequest(f"{RING} must name a file with a list of addresses for each rank.")
    listed = [[address_in(RING, address) for address in rank] for rank in found]
    hosts = [rank[0][0] for rank in listed]
    return hosts, (RING, hosts[0] if hosts else "", max((port for rank in listed for _, port in rank), default=0))


def jaccl_hosts(environment: Mapping[str, str]) -> tuple[list[str], tuple[str, str, int]]:
    """As `ring_hosts`, for JACCL: it names rank 0's address alone."""
    ranks = len(entries(JACCL, environment[JACCL]))
    host, port = address_in(COORDINATOR, environment.get(COORDINATOR, ""))
    return [host, *[""] * (ranks - 1)][:ranks], (COORDINATOR, host, port)


def port_after(name: str, port: int) -> int:
    """The port for messages, the one after the highest that a variable names. Raises InvalidRequest where that is the
    last one."""
    if port >= 65535:
        raise InvalidRequest(f"{name} has the port {port}, after which there is none for messages.",
                             f"Begin with a lower port, or set {CONTROL} to an address with a free one.")  # fmt: skip
    return port + 1


def entries(name: str, path: str) -> list[Any]:
    """The list in the JSON file that a variable names, an entry a rank; empty where the file is. Raises
    InvalidRequest."""
    try:
        found: Any = json.loads(read_bytes(Path(path), MOST_BYTES).strip() or b"[]")
    except (ElmError, OSError, ValueError, RecursionError) as error:
        why = error.message.removesuffix(".") if isinstance(error, ElmError) else str(error)
        raise InvalidRequest(f"{name} names {path}, which cannot be read as a list in JSON: {why}.") from error
    if not isinstance(found, list) or len(found) > MOST_RANKS:
        raise InvalidRequest(f"{name} names {path}, which must be a list in JSON with an entry for each rank.")
    return found


def rank_in(text: str, ranks: int) -> int:
    """The rank of this process. Raises InvalidRequest where it is none of them."""
    if not text.isascii() or not text.isdigit() or len(text) > 4 or int(text) >= ranks:
        raise InvalidRequest(f"{RANK} is {shown(text)}; it must be 0 to {ranks - 1}, as there are {ranks} ranks.")
    return int(text)


def address_in(name: str, value: object) -> Address:
    """Reads "127.0.0.1:5000" or "[::1]:5000". Raises InvalidRequest."""
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    try:
        ip = str(ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        ip = ""
    number = int(port) if PORT.fullmatch(port) else 0
    if not ip or not 0 < number < 65536:
        raise InvalidRequest(f"{name} has {shown(value)}; it must be an IP address and a port, as in 10.0.0.1:5000.")
    return ip, number


def is_private(host: str) -> bool:
    """Whether an IP address is one of a private network, or of this machine."""
    address = ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    others = address.is_global or address.is_multicast or address.is_unspecified or address.is_reserved
    return address.is_loopback or not others


def refuse_public(addresses: list[str]) -> None:
    """Raises InvalidRequest for an address that others can reach: whoever does could take part unseen."""
    for host in addresses:
        if host and not is_private(host):
            raise InvalidRequest(
                f"{host} is not a private address, and what the ranks send each other is neither encrypted nor asks "
                "who sends it.", f"Name addresses of a private network, or set {PUBLIC}=1 for all ranks where a "
                "firewall lets nobody else through.",
            )  # fmt: skip


def joined(names: list[str]) -> str:
    """Names in one sentence."""
    first, *others = names
    return " and ".join([first, *(other[0].lower() + other[1:] for other in others)])


def capital(text: str) -> str:
    """A text as a sentence begins."""
    return text[:1].upper() + text[1:]
