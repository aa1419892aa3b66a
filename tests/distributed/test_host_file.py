"""A host file is read as MLX writes it, and is hostile until then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from elm_mlx.distributed.host_file import Host, Machines, backend_of, machines_here, read_hosts
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound

TWO = [{"ssh": "mac1.local", "ips": ["10.0.0.1"]}, {"ssh": "me@mac2", "ips": ["10.0.0.2"]}]
MESH = [
    {"ssh": "a", "ips": ["10.0.0.1"], "rdma": [None, "rdma_en5", "rdma_en4"]},
    {"ssh": "b", "rdma": ["rdma_en5", None, ["rdma_en3", "rdma_en2"]]},
    {"ssh": "c", "rdma": ["rdma_en4", "rdma_en3", None]},
]


def write(folder: Path, value: Any) -> Path:
    path = folder / "hosts.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_both_forms_are_read(tmp_path: Path) -> None:
    whole = {"backend": "ring", "envs": ["MLX_METAL_FAST_SYNCH=1", "ELM_MLX_STEP_SECONDS=9"], "hosts": TWO}
    hosts = (Host("mac1.local", ("10.0.0.1",)), Host("me@mac2", ("10.0.0.2",)))
    assert read_hosts(write(tmp_path, TWO)) == Machines(hosts)
    envs = (("MLX_METAL_FAST_SYNCH", "1"), ("ELM_MLX_STEP_SECONDS", "9"))
    assert read_hosts(write(tmp_path, whole)) == Machines(hosts, "ring", envs)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\ud7ff\udfff".encode("utf-8", "surrogatepass").decode("latin-1"), "not JSON"),
        ({}, "no list of hosts"),
        (7, "no list of hosts"),
        (TWO[:1], "lists 1 hosts"),
        (TWO * 40, "lists 80 hosts"),
        ([TWO[0], 3], "host 1 is a number"),
        ([TWO[0], {"ips": []}], "host 1 has no name for ssh"),
        ([TWO[0], {"ssh": "-oProxyCommand=rm"}], "host 1 has no name for ssh"),
        ([TWO[0], {"ssh": "a b"}], "host 1 has no name for ssh"),
        ([TWO[0], {"ssh": "a\n"}], "host 1 has no name for ssh"),
        ([TWO[0], {"ssh": "b", "ips": "10.0.0.2"}], "no list of up to 8 addresses"),
        ([TWO[0], {"ssh": "b", "ips": ["mac2"]}], "an address that is none"),
        ([TWO[0], {"ssh": "b", "ips": ["fe80::1"]}], "those of IPv4 alone"),
        ([TWO[0], {"ssh": "b", "rdma": ["$(x)", None]}], "no device"),
        ({"hosts": TWO, "backend": "mpi"}, "its backend is 'mpi'"),
        ({"hosts": TWO, "envs": {"A": 1}}, "no list of up to 64"),
        ({"hosts": TWO, "envs": ["LD_PRELOAD=x"]}, "they may set variables"),
        ({"hosts": TWO, "envs": ["MLX_RANK=1"]}, "they may set variables"),
        ({"hosts": TWO, "envs": ["ELM_MLX_PUBLIC=1"]}, "they may set variables"),
        ({"hosts": TWO, "envs": ["MLX_A=1\n"]}, "they may set variables"),
    ],
)
def test_what_is_no_host_file_is_refused_with_the_reason(value: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="is not a host file") as refused:
        read_hosts(write(tmp_path, value))
    assert why in str(refused.value)


def test_a_file_that_is_not_there_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no host file"):
        read_hosts(tmp_path / "none.json")
    with pytest.raises(BadCheckpoint, match="over 1 MB"):
        read_hosts(write(tmp_path, " " * (2**20 + 1)))


def test_the_backend_is_the_asked_one_then_the_files_then_the_ring(tmp_path: Path) -> None:
    mesh = read_hosts(write(tmp_path, {"backend": "jaccl", "hosts": MESH}))
    assert (backend_of(mesh, None), backend_of(mesh, "jaccl-ring")) == ("jaccl", "jaccl-ring")
    assert backend_of(read_hosts(write(tmp_path, TWO)), None) == "ring"
    assert backend_of(machines_here(3), None) == "ring"
    with pytest.raises(InvalidRequest, match="No ips are listed for b, c"):
        backend_of(mesh, "ring")


def test_a_mesh_needs_a_cable_between_any_two(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="as rdma of mac1"):
        backend_of(read_hosts(write(tmp_path, TWO)), "jaccl")
    four = [
        {"ssh": name, "ips": ["10.0.0.1"], "rdma": [None if abs(i - j) % 2 == 0 else "rdma_en1" for j in range(4)]}
        for i, name in enumerate("abcd")
    ]
    hosts = read_hosts(write(tmp_path, four))
    assert backend_of(hosts, "jaccl-ring") == "jaccl-ring"
    with pytest.raises(InvalidRequest, match="a has no RDMA device towards c"):
        backend_of(hosts, "jaccl")


def test_public_addresses_are_refused_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = read_hosts(write(tmp_path, [TWO[0], {"ssh": "b", "ips": ["8.8.8.8"]}]))
    with pytest.raises(InvalidRequest, match="no private address"):
        backend_of(hosts, None)
    monkeypatch.setenv("ELM_MLX_PUBLIC", "1")
    assert backend_of(hosts, None) == "ring"
