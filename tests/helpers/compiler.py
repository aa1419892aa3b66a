"""A g++ that has read MLX's header before: reading it is most of what compiling a kernel takes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from shlex import quote

import mlx.core as mx

INCLUDE = Path(mx.__file__).parent / "include"
HEADER = "mlx/backend/cpu/compiled_preamble.h"
# Who comes while the header is being compiled reads it as it is. The options are MLX's own: others make it useless.
SCRIPT = """#!/bin/sh
if [ "$1" != --version ] && mkdir {folder}/begun 2>/dev/null; then
    {compiler} -std=c++17 -O3 -Wall -fPIC -I {include} {include}/{header} -o {folder}/ready.gch 2>/dev/null
    mkdir -p "$(dirname {folder}/{header})" && mv {folder}/ready.gch {folder}/{header}.gch
fi
exec {compiler} -I {folder} "$@"
"""


def install(folder: Path) -> None:
    """Writes `g++` into `folder`, for a search path to begin with, where there is one that it can call."""
    compiler = shutil.which("g++")
    if compiler and sys.platform.startswith("linux"):
        places = {"folder": folder, "compiler": compiler, "include": INCLUDE, "header": HEADER}
        script = SCRIPT.format(**{name: quote(str(place)) for name, place in places.items()})
        (folder / "g++").write_text(script, encoding="utf-8")
        (folder / "g++").chmod(0o755)
