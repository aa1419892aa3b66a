"""A socket in a file, which only its owner can reach."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from pathlib import Path

from elm_mlx.errors import AddressInUse, InvalidRequest, TargetExists
from elm_mlx.shell import command_line

# Bytes of a path, without the zero at its end: sun_path in <sys/un.h>.
MOST_BYTES = 103 if sys.platform == "darwin" else 107
OTHERS = 0o077
PROBE_S = 1.0


def listen_on_file(path: str, backlog: int) -> socket.socket:
    """Listens on a socket file. Its folder is made with mode 0700 where it is not there, as the file itself does not
    keep others out everywhere. The file of a server that is dead is replaced.

    Raises InvalidRequest for a path that is too long, or in a folder that others may enter; AddressInUse where a server
    listens there; TargetExists for a file of another kind.
    """
    if len(os.fsencode(path)) > MOST_BYTES:
        raise InvalidRequest(f"The path of the socket has {len(os.fsencode(path))} bytes; the system takes "
                             f"{MOST_BYTES}.", "Name a shorter {uds}.")  # fmt: skip
    make_private(Path(path).absolute().parent)
    remove_stale(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.bind(path)
        Path(path).chmod(0o600)
        opened.listen(backlog)
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        raise InvalidRequest(f"No socket can be made at {path}: {error.strerror}.", "Name another {uds}.") from error
    return opened


def make_private(folder: Path) -> None:
    """Makes a folder that only its owner may enter. Raises InvalidRequest for one that is there and is open to others,
    or another user's."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise InvalidRequest(f"{folder} cannot be made: {error.strerror}.", "Name another {uds}.") from error
    if status.st_uid != os.getuid():
        raise InvalidRequest(f"{folder} belongs to another user.", "Name a {uds} in a folder of your own.")
    if status.st_mode & OTHERS:
        raise InvalidRequest(
            f"Others may enter {folder} (its mode is {stat.S_IMODE(status.st_mode):04o}), and so could use the socket. "
            f"`{command_line('chmod', '700', folder)}` closes it to them.",
            "Or name a {uds} in a folder that is not there yet.",
        )


def remove_stale(path: str) -> None:
    """Removes the socket file of a server that is dead. Raises as `listen_on_file`."""
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise TargetExists(f"{path} exists, and is not a socket.", "Name another {uds}, or remove it.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
            return
        except OSError:  # it is busy, so somebody listens
            pass
    raise AddressInUse(f"A server listens on {path} already.", "Stop that, or name another {uds}.")


def remove_own(path: str, inode: int) -> None:
    """Removes a socket file, unless another server has put its own there."""
    with contextlib.suppress(FileNotFoundError):
        if Path(path).lstat().st_ino == inode:
            Path(path).unlink()
