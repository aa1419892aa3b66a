"""Where the ranks are, as the launchers say it: read within bounds, and private addresses alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from elm_mlx.distributed.hosts import Hosts, hosts_here, is_private
from elm_mlx.errors import InvalidRequest


def ring(folder: Path, *ranks: object, rank: object = 1, **more: str) -> dict[str, str]:
    """The environment of a rank, with a host file of these entries."""
    file = folder / "hosts.json"
    file.write_text(json.dumps(ranks), encoding="utf-8")
    return {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(file), **more}


TWO = (["10.0.0.1:5000", "10.1.0.1:5001"], ["10.0.0.2:5002"])


def test_a_ring_says_where_its_ranks_are_and_where_messages_go(tmp_path: Path) -> None:
    found = hosts_here(ring(tmp_path, *TWO))
    assert found == Hosts(1, ("10.0.0.1", "10.0.0.2"), ("10.0.0.1", 5003), "ring")
    assert (found.ranks, found.name(1)) == (2, "rank 1 (10.0.0.2)")
    found = hosts_here(ring(tmp_path, *TWO, ELM_MLX_CONTROL="[::1]:77", ELM_MLX_JOB="word"))
    assert found
    assert (found.control, found.job) == (("::1", 77), "word")


def test_jaccl_says_how_many_ranks_there_are_and_where_rank_0_is(tmp_path: Path) -> None:
    file = tmp_path / "devices.json"
    file.write_text(json.dumps([[None, "a", "b"], ["a", None, "b"], ["a", "b", None]]), encoding="utf-8")
    asked = {"MLX_RANK": "2", "MLX_IBV_DEVICES": str(file), "MLX_JACCL_COORDINATOR": "192.168.1.5:6000"}
    assert hosts_here(asked) == Hosts(2, ("192.168.1.5", "", ""), ("192.168.1.5", 6001), "jaccl")


def test_one_process_is_no_rank(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert hosts_here({}) is None
    assert hosts_here({"MLX_RANK": "0"}) is None
    assert hosts_here({"MLX_RANK": "0", "MLX_HOSTFILE": str(empty)}) is None
    assert hosts_here(ring(tmp_path, ["10.0.0.1:5000"], rank=0)) is None


@pytest.mark.parametrize(
    ("ranks", "more"),
    [
        (([],), {}),
        ((["10.0.0.1"], ["10.0.0.2:1"]), {}),
        ((["host:5000"], ["10.0.0.2:1"]), {}),
        (("10.0.0.1:1", "10.0.0.2:1"), {}),
        ((["10.0.0.1:65535"], ["10.0.0.2:1"]), {}),
        ((["10.0.0.1:70000"], ["10.0.0.2:1"]), {}),
        ((["10.0.0.1:+5"], ["10.0.0.2: 5"]), {}),
        ((["10.0.0.1:1_0"], ["10.0.0.2:٣"]), {}),
        (([5], [6]), {}),
        (TWO, {"MLX_RANK": "2"}),
        (TWO, {"MLX_RANK": "-1"}),
        (TWO, {"MLX_RANK": "9" * 5000}),
        (TWO, {"ELM_MLX_CONTROL": "10.0.0.1"}),
        (TWO, {"MLX_HOSTFILE": "/nowhere"}),
        (TWO, {"MLX_HOSTFILE": "/dev/zero"}),
        ((["10.0.0.1:5000"], ["8.8.8.8:5000"]), {}),
        ((["2001:4860:4860::8888:1"], ["10.0.0.2:5000"]), {}),
        ((["[2001:4860:4860::8888]:1"], ["10.0.0.2:5000"]), {}),
        ((["0.0.0.0:5000"], ["10.0.0.2:5000"]), {}),
        (TWO, {"ELM_MLX_CONTROL": "1.1.1.1:5000"}),
    ],
)
def test_what_has_no_meaning_or_is_public_is_refused(tmp_path: Path, ranks: tuple, more: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        hosts_here(ring(tmp_path, *ranks) | more)


def test_a_pipe_is_no_host_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidRequest, match="a folder, a pipe or a device"):
        hosts_here({"MLX_RANK": "0", "MLX_HOSTFILE": str(tmp_path / "pipe")})


def test_the_port_for_messages_may_be_named_where_none_is_left(tmp_path: Path) -> None:
    file = tmp_path / "devices.json"
    file.write_text('[[null, "a"], ["b", null]]', encoding="utf-8")
    jaccl = {"MLX_RANK": "1", "MLX_IBV_DEVICES": str(file), "MLX_JACCL_COORDINATOR": "10.0.0.1:65535"}
    for environment in (jaccl, ring(tmp_path, ["10.0.0.1:65535"], ["10.0.0.2:1"])):
        with pytest.raises(InvalidRequest, match="has the port 65535, after which there is none for messages"):
            hosts_here(environment)
        found = hosts_here(environment | {"ELM_MLX_CONTROL": "10.0.0.1:700"})
        assert found
        assert found.control == ("10.0.0.1", 700)


def test_public_addresses_are_taken_where_somebody_says_so(tmp_path: Path) -> None:
    found = hosts_here(ring(tmp_path, ["8.8.8.8:5000"], ["8.8.4.4:5000"], ELM_MLX_PUBLIC="1"))
    assert found
    assert found.control == ("8.8.8.8", 5001)


def test_which_addresses_are_private() -> None:
    for host in (
        "127.0.0.1",
        "10.2.3.4",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.3.4",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "fe80::1%en0",
    ):
        assert is_private(host), host
    for host in ("8.8.8.8", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "2001:4860:4860::8888", "::ffff:8.8.8.8"):
        assert not is_private(host), host
