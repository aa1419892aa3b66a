"""Where a server listens: both loopback addresses, a free port, a private socket file, sockets that systemd opened."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pytest

from elm_mlx.errors import AddressInUse, ElmError, InvalidRequest, TargetExists
from elm_mlx.server import holder, listen, socket_file
from elm_mlx.server.listen import inherited_sockets, listening, url_of
from elm_mlx.server.settings import Settings


def reaches(family: int, address: object) -> bool:
    """Whether somebody listens at an address."""
    with socket.socket(family, socket.SOCK_STREAM) as one:
        return one.connect_ex(address) == 0  # type: ignore[arg-type]


def has_ipv6() -> bool:
    """Whether this machine has ::1."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short, as a socket's has to be; nobody else may enter it."""
    with TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


# Addresses


def test_a_free_port_is_the_same_at_both_loopback_addresses() -> None:
    with listening(Settings(port=0)) as sockets:
        ports = {one.getsockname()[1] for one in sockets}
        addresses = [one.getsockname()[0] for one in sockets]
        assert len(ports) == 1
        assert addresses == ["127.0.0.1", "::1"][: 2 if has_ipv6() else 1]
        assert url_of(sockets[0]) == f"http://127.0.0.1:{ports.pop()}"
        where = sockets[0].getsockname()
        assert reaches(socket.AF_INET, where)
    assert not reaches(socket.AF_INET, where)


def test_a_machine_without_ipv6_listens_at_its_other_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "LOOPBACK", ("127.0.0.1", "2001:db8::1"))  # an address that no machine has
    with listening(Settings(port=0)) as sockets:
        assert [one.getsockname()[0] for one in sockets] == ["127.0.0.1"]


def has(host: str) -> bool:
    """Whether this machine has an address: a Mac has 127.0.0.1 alone unless it is told otherwise."""
    with socket.socket() as one:
        try:
            one.bind((host, 0))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not has("127.0.0.2"), reason="needs two addresses of IPv4")
def test_a_port_that_another_takes_in_ipv6_is_given_up_for_one_that_is_free_in_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listen, "LOOPBACK", ("127.0.0.1", "127.0.0.2"))  # two addresses, as those of IPv4 and IPv6
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        real, first = socket.getaddrinfo, [taken.getsockname()[1]]

        def lead(host: str, port: int, **others: int) -> object:
            return real(host, first.pop() if first and not port else port, **others)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", lead)
        with listening(Settings(port=0)) as sockets:
            assert len({one.getsockname()[1] for one in sockets} | {taken.getsockname()[1]}) == 2


def test_a_port_in_use_says_who_has_it() -> None:
    with listening(Settings(port=0)) as sockets:
        port = sockets[0].getsockname()[1]
        with pytest.raises(AddressInUse, match=r"in use by .*") as caught, listening(Settings(port=port)):
            pass
        if sys.platform == "linux":
            assert f"(process {os.getpid()})" in str(caught.value)
        assert str(port) in str(caught.value)
        assert "{port=0}" in caught.value.advice


def test_a_process_of_ours_is_named_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "comm").write_text("python3\n")
    (tmp_path / "cmdline").write_bytes(b"/x/python3\0/x/bin/elm-mlx\0serve\0")
    assert holder.name_of(tmp_path) == "elm-mlx"
    (tmp_path / "cmdline").write_bytes(b"/usr/sbin/nginx\0")
    assert holder.name_of(tmp_path) == "python3"


def test_lsof_tells_who_has_a_port_where_there_is_no_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 0, "p411\ncControlCenter\nf9\np500\ncother\n", "")
    monkeypatch.setattr(holder, "PROC", tmp_path / "none")
    with (
        mock.patch.object(holder.shutil, "which", return_value="/usr/sbin/lsof"),
        mock.patch.object(holder.subprocess, "run", return_value=done),
    ):
        assert holder.holder_of(5000) == "ControlCenter (process 411)"
    with mock.patch.object(holder.shutil, "which", return_value=None):
        assert holder.holder_of(5000) == holder.UNKNOWN


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host", "999.1.1.1", "a" * 300])
def test_an_address_that_this_machine_does_not_have_is_refused_in_words(host: str) -> None:
    with pytest.raises(InvalidRequest, match="host"), listening(Settings(host=host, port=0, api_key="k")):
        pass


@pytest.mark.skipif(os.getuid() == 0, reason="root may listen anywhere")
def test_a_port_that_this_user_may_not_have_is_refused_in_words() -> None:
    with pytest.raises(ElmError, match="port"), listening(Settings(port=1)):
        pass


# A socket file


def test_a_socket_file_lies_in_a_folder_for_its_owner_alone(folder: Path) -> None:
    path = folder / "run" / "elm" / "socket"
    with listening(Settings(uds=str(path))) as sockets:
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o600
        assert reaches(socket.AF_UNIX, str(path))
        assert url_of(sockets[0]) == f"unix:{path}"
    assert not path.exists()


def test_a_folder_that_others_may_enter_is_refused_with_the_command_that_closes_it(folder: Path) -> None:
    folder.chmod(0o755)
    with (
        pytest.raises(InvalidRequest, match=rf"chmod 700 {re.escape(str(folder))}"),
        listening(Settings(uds=str(folder / "socket"))),
    ):
        pass
    with pytest.raises(InvalidRequest, match=r"mode is 1777|another user"), listening(Settings(uds="/tmp/elm.socket")):
        pass


def test_the_file_of_a_dead_server_is_replaced_and_that_of_a_living_one_is_not(folder: Path) -> None:
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert path.exists()
    with listening(Settings(uds=str(path))):
        with pytest.raises(AddressInUse, match="already"), listening(Settings(uds=str(path))):
            pass
        assert reaches(socket.AF_UNIX, str(path))


def test_nothing_but_a_socket_is_ever_removed(folder: Path) -> None:
    path = folder / "diary"
    path.write_text("dear diary")
    with pytest.raises(TargetExists), listening(Settings(uds=str(path))):
        pass
    assert path.read_text() == "dear diary"
    path.unlink()
    with listening(Settings(uds=str(path))):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_a_path_that_no_system_takes_is_refused_before_anything_is_made(folder: Path) -> None:
    path = folder / ("x" * 120) / "socket"
    with pytest.raises(InvalidRequest, match="bytes"), listening(Settings(uds=str(path))):
        pass
    assert not path.parent.exists()
    assert socket_file.MOST_BYTES in (103, 107)


# Sockets of systemd


def test_sockets_of_systemd_are_taken_and_their_variables_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        monkeypatch.setattr(listen, "FIRST_FD", os.dup(one.fileno()))
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}
        (handed,) = inherited_sockets(environment)
        with handed:
            assert handed.getsockname() == one.getsockname()
            assert environment == {"HOME": "/"}
            assert not handed.get_inheritable()
            listen.refuse_open([handed], Settings())


def test_a_socket_of_systemd_that_others_reach_demands_a_key() -> None:
    with socket.socket() as one:
        one.bind(("0.0.0.0", 0))
        with pytest.raises(InvalidRequest, match="needs a key"):
            listen.refuse_open([one], Settings())
        listen.refuse_open([one], Settings(api_key="k"))


@pytest.mark.parametrize(
    "told", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}]
)
def test_variables_that_are_not_for_this_process_are_left_alone(told: dict[str, str]) -> None:
    left = dict(told)
    assert inherited_sockets(left) == []
    assert left == told
