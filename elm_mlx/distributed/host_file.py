"""The file that says on which machines a model runs, in the format of MLX's `mlx.launch` and `mlx.distributed_config`.

    {"backend": "ring", "envs": ["MLX_METAL_FAST_SYNCH=1"],
     "hosts": [{"ssh": "mac1.local", "ips": ["10.0.0.1"], "rdma": [null, "rdma_en5"]}, ...]}

or the list of hosts alone. `ssh` is the name by which a machine is reached, `ips` its addresses for collectives, `rdma`
its Thunderbolt devices towards each other machine (JACCL). The first host is rank 0. A file is hostile until it has
been read: sizes, words and addresses have bounds, and it may set MLX's variables and ours alone.
Source: MLX's documentation, "Launching Distributed Programs", and mlx/_distributed_utils/common.py of MLX 0.32.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

from elm_mlx.distributed.hosts import CONTROL, JOB, PUBLIC, is_private
from elm_mlx.distributed.rank_files import WHO
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound
from elm_mlx.files import json_kind, read_bytes

RING, JACCL, JACCL_RING = "ring", "jaccl", "jaccl-ring"
BACKENDS = (RING, JACCL, JACCL_RING)
LOOPBACK = "127.0.0.1"
MOST_HOSTS = 64
MOST_IPS = 8
MOST_ENVS = 64
MOST_BYTES = 2**20
SSH_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:%-]{0,254}")  # never an option of ssh
DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
SETTING = re.compile(r"((?:ELM_)?MLX_[A-Z0-9_]{1,64})=([ -~]{0,1024})")
# What the launcher itself sets.
OURS = {*WHO, CONTROL, JOB, PUBLIC}
WHO_WRITES_IT = "`mlx.distributed_config` writes one; docs/distributed.md shows one."

Devices = tuple[str | list[str] | None, ...]


@dataclass(frozen=True)
class Host:
    """A machine with one rank: the name that ssh knows, its addresses, and its device towards each rank (JACCL)."""

    ssh: str
    ips: tuple[str, ...] = ()
    rdma: Devices = ()


@dataclass(frozen=True)
class Machines:
    """What a host file says: the machines, in the order of their ranks; the backend, if it names one; variables to
    set."""

    hosts: tuple[Host, ...]
    backend: str | None = None
    envs: tuple[tuple[str, str], ...] = ()


def machines_here(count: int) -> Machines:
    """So many ranks on this machine."""
    return Machines((Host(LOOPBACK, (LOOPBACK,)),) * count, RING)


def read_hosts(path: Path) -> Machines:
    """Reads a host file. Raises NotFound, and BadCheckpoint for what is no host file, with what is wrong with it."""
    try:
        value = json.loads(read_bytes(path, MOST_BYTES))
    except NotFound as error:
        raise NotFound(f"There is no host file {path}.", WHO_WRITES_IT) from error
    except (ValueError, RecursionError) as error:
        raise bad(path, "it is not JSON") from error
    whole: dict[str, Any] = {"hosts": value} if isinstance(value, list) else value
    if not isinstance(whole, dict) or not isinstance(listed := whole.get("hosts"), list):
        raise bad(path, f"it holds {json_kind(value)}, and no list of hosts")
    if not 1 < len(listed) <= MOST_HOSTS:
        raise bad(path, f"it lists {len(listed):,} hosts, and 2 to {MOST_HOSTS} can run a model together")
    hosts = tuple(read_host(path, rank, host) for rank, host in enumerate(listed))
    return Machines(hosts, read_backend(path, whole.get("backend")), read_envs(path, whole.get("envs")))


def read_host(path: Path, rank: int, value: Any) -> Host:
    """One host of the list."""
    if not isinstance(value, dict):
        raise bad(path, f"host {rank} is {json_kind(value)}, where an object belongs")
    name, ips, rdma = value.get("ssh"), value.get("ips") or [], value.get("rdma") or []
    if not isinstance(name, str) or not SSH_NAME.fullmatch(name):
        raise bad(path, f"host {rank} has no name for ssh: a word such as mac1.local")
    if not isinstance(ips, list) or len(ips) > MOST_IPS:
        raise bad(path, f"host {rank} has no list of up to {MOST_IPS} addresses as ips")
    return Host(name, tuple(read_ip(path, rank, ip) for ip in ips), read_devices(path, rank, rdma))


def read_ip(path: Path, rank: int, value: Any) -> str:
    """An address of a host, as IPv4: MLX cuts address and port at the first colon."""
    try:
        address = ip_address(value if isinstance(value, str) else "")
    except ValueError as error:
        raise bad(path, f"host {rank} has an address that is none, {str(value)[:60]!r}") from error
    if not isinstance(address, IPv4Address):
        raise bad(path, f"host {rank} has the address {address}, and MLX takes those of IPv4 alone, such as 10.0.0.1")
    return str(address)


def read_devices(path: Path, rank: int, value: Any) -> Devices:
    """The RDMA devices of a host: a name, several or null for each rank."""
    if not isinstance(value, list) or len(value) > MOST_HOSTS:
        raise bad(path, f"host {rank} has no list of devices as rdma")
    for entry in value:
        names = entry if isinstance(entry, list) else [entry] if entry is not None else []
        if len(names) > MOST_IPS or not all(isinstance(name, str) and DEVICE.fullmatch(name) for name in names):
            raise bad(path, f"host {rank} has an entry of rdma that is no device, such as rdma_en5, nor null")
    return tuple(value)


def read_backend(path: Path, value: Any) -> str | None:
    """The backend that a file names, if it names one."""
    if value in (None, ""):
        return None
    if value not in BACKENDS:
        raise bad(path, f"its backend is {str(value)[:60]!r}, and there are {', '.join(BACKENDS)}")
    return str(value)


def read_envs(path: Path, value: Any) -> tuple[tuple[str, str], ...]:
    """The variables that a file sets: MLX's and ours, but none that decides who the ranks are."""
    if not isinstance(value or [], list) or len(value or []) > MOST_ENVS:
        raise bad(path, f"its envs are no list of up to {MOST_ENVS} settings")
    found = []
    for entry in value or []:
        matched = SETTING.fullmatch(entry) if isinstance(entry, str) else None
        if not matched or matched[1] in OURS:
            raise bad(path, f"its envs hold {str(entry)[:60]!r}, and they may set variables as MLX_NAME=VALUE or "
                            "ELM_MLX_NAME=VALUE, but none that says who a rank is")  # fmt: skip
        found.append((matched[1], matched[2]))
    return tuple(found)


def bad(path: Path, why: str) -> BadCheckpoint:
    """Makes the error for a file that is no host file."""
    return BadCheckpoint(f"{path} is not a host file: {why}.", WHO_WRITES_IT)


def backend_of(hosts: Machines, asked: str | None) -> str:
    """The backend to run with: the asked one, the file's, or the ring. Raises InvalidRequest where the file lacks what
    it needs, and for addresses that anyone may reach."""
    backend = asked or hosts.backend or RING
    lacking = [host.ssh for host in (hosts.hosts if backend == RING else hosts.hosts[:1]) if not host.ips]
    if lacking:
        raise InvalidRequest(f"No ips are listed for {', '.join(lacking)}, and {backend} needs them.",
                             "Add the address by which the others reach it.")  # fmt: skip
    if len({len(host.ips) for host in hosts.hosts}) > 1 and backend == RING:
        raise InvalidRequest("The hosts have different numbers of ips, and a ring uses as many of each.",
                             "List as many for each.")  # fmt: skip
    if backend != RING:
        check_devices(hosts, neighbours=backend == JACCL_RING)
    refuse_public_hosts(hosts)
    return backend


def check_devices(hosts: Machines, neighbours: bool) -> None:
    """Raises InvalidRequest where a rank has no RDMA device towards a rank that it speaks with: its neighbours, or
    all."""
    count = len(hosts.hosts)
    for rank, host in enumerate(hosts.hosts):
        if len(host.rdma) != count or host.rdma[rank] is not None:
            raise InvalidRequest(
                f"JACCL needs {count} entries as rdma of {host.ssh} (rank {rank}): a device towards each rank, and "
                "null in its own place.",
                "`mlx.distributed_config --backend jaccl` writes them.",
            )
        others = {(rank - 1) % count, (rank + 1) % count} if neighbours else {*range(count)}
        for other in sorted(others - {rank}):
            if not host.rdma[other]:
                raise InvalidRequest(
                    f"{host.ssh} has no RDMA device towards {hosts.hosts[other].ssh}.",
                    "Connect them by a Thunderbolt cable, or take the ring: {backend=ring}.",
                )


def refuse_public_hosts(hosts: Machines) -> None:
    """Raises InvalidRequest for an address that is neither private nor loopback, unless ELM_MLX_PUBLIC is 1: neither
    MLX's ring nor our control channel asks who connects, or hides what they carry."""
    for host in hosts.hosts:
        for ip in host.ips:
            if not is_private(ip) and os.environ.get(PUBLIC) != "1":
                raise InvalidRequest(
                    f"{ip} of {host.ssh} is no private address. Nothing between the ranks is encrypted, and MLX's ring "
                    "takes anyone who connects.",
                    f"Give addresses of a network of your own, such as 10.0.0.1; {PUBLIC}=1 takes others.",
                )
