"""`elm-mlx` as the launcher starts it on a rank: `python -m elm_mlx.cli.rank FD`.

It reads its orders, one line of JSON, from a pipe (`distributed.rank_process`), runs that command line, and ends itself
when the pipe closes: then the launcher is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from elm_mlx.distributed.rank_files import forget_earlier_run, remove_files, write_files

MOST_BYTES = 2**21  # of the orders
LAST_S = 5.0  # after SIGTERM, until the process ends whatever still hangs


def main() -> None:
    """Runs one rank."""
    lifeline = open(int(sys.argv[1]), "rb", closefd=False)  # noqa: SIM115
    orders = json.loads(lifeline.readline(MOST_BYTES) or b"{}")
    if not orders:
        sys.exit(signal.SIGTERM + 128)  # the launcher ended at once
    take(orders)
    threading.Thread(target=end_with, args=(lifeline,), daemon=True).start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # which the launcher has held back
        from elm_mlx.cli import main as run

        sys.argv = ["elm-mlx", *orders["arguments"]]
        run()
    except KeyboardInterrupt:  # before the command line listens for it
        sys.exit(signal.SIGINT + 128)
    finally:
        remove_files()


def take(orders: dict[str, Any]) -> None:
    """Puts what a rank is told into its environment."""
    forget_earlier_run()
    os.environ.update(orders["environment"])
    write_files(orders["files"])
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


if __name__ == "__main__":
    main()
