"""Which process listens at a port, as far as this user may know."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
LISTENS = "0A"  # the state TCP_LISTEN in /proc/net/tcp
UNKNOWN = "another process, perhaps of another user"
PATIENCE_S = 5.0


def holder_of(port: int) -> str:
    """The process that listens at a port, in words: its name and its number."""
    found = next(ask_proc(port), None) if (PROC / "net/tcp").exists() else ask_lsof(port)
    return f"{found[1]} (process {found[0]})" if found else UNKNOWN


def ask_proc(port: int) -> Iterator[tuple[str, str]]:
    """(number, name) of the processes that listen at a port, by Linux's /proc; those of other users are not seen."""
    wanted = {f"socket:[{inode}]" for inode in inodes_at(port)}
    for folder in PROC.glob("[0-9]*") if wanted else ():
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in wanted for link in (folder / "fd").iterdir()):
                yield folder.name, name_of(folder)


def inodes_at(port: int) -> Iterator[str]:
    """The inodes of the sockets that listen at a port. Source of the format: proc_net_tcp.txt of Linux."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / "net" / name).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == LISTENS and int(columns[1].rpartition(":")[2], 16) == port:
                    yield columns[9]


def name_of(folder: Path) -> str:
    """The name of a process: elm-mlx for one of ours, which Python's own would hide."""
    words = (folder / "cmdline").read_bytes().split(b"\0")
    if any(b"elm-mlx" in word or b"elm_mlx" in word for word in words[:3]):
        return "elm-mlx"
    return (folder / "comm").read_text().strip() or "a process"


def ask_lsof(port: int) -> tuple[str, str] | None:
    """(number, name) of the process that listens at a port, by the program lsof, which a Mac has."""
    if not (program := shutil.which("lsof", path="/usr/sbin:/usr/bin:/bin")):
        return None
    command = [program, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    fields = {line[:1]: line[1:] for line in reversed(done.stdout.splitlines())}
    return (fields["p"], fields.get("c", "a process")) if "p" in fields else None
