"""`elm-mlx` as the launcher starts it on a rank: `python -m elm_mlx.cli.rank FD`.

It reads its orders, one line of JSON, from a pipe (`distributed.rank_process`), runs that command line, and ends itself
when the pipe closes: then the launcher is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

MOST_BYTES = 2**21  # of the orders
LAST_S = 5.0  # after SIGTERM, until the process ends whatever still hangs
FILES = "ELM_MLX_RANK_FILES"  # the folder of this rank's files, which may go when MLX has read them


def main() -> None:
    """Runs one rank."""
    lifeline = open(int(sys.argv[1]), "rb", closefd=False)  # noqa: SIM115
    orders = json.loads(lifeline.readline(MOST_BYTES) or b"{}")
    if not orders:
        sys.exit(signal.SIGTERM + 128)  # the launcher ended at once
    take(orders)
    threading.Thread(target=end_with, args=(lifeline,), daemon=True).start()
    from elm_mlx.cli import main as run

    sys.argv = ["elm-mlx", *orders["arguments"]]
    try:
        run()
    finally:
        remove_files()


def take(orders: dict[str, Any]) -> None:
    """Puts what a rank is told into its environment."""
    os.environ.update(orders["environment"])
    folder = Path(tempfile.mkdtemp(prefix="elm-mlx-rank-"))
    os.environ[FILES] = str(folder)
    for variable, content in orders["files"].items():
        path = folder / f"{variable}.json"
        path.write_text(content, encoding="utf-8")
        os.environ[variable] = str(path)
    if Path(orders["folder"]).is_dir():
        os.chdir(orders["folder"])


def end_with(lifeline: IO[bytes]) -> None:
    """Waits until the launcher is gone, and ends this process: as SIGTERM does, and soon after that at all costs."""
    while lifeline.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_S)
    remove_files()
    os._exit(signal.SIGTERM + 128)


def remove_files() -> None:
    """Removes this rank's files, which nobody needs once MLX has connected the ranks."""
    if folder := os.environ.pop(FILES, None):
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
