"""A g++ for all processes of a test run, which has read MLX's header before and builds no kernel a second time: reading
the header is most of what compiling a kernel takes.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from shlex import quote

import mlx.core as mx

INCLUDE = Path(mx.__file__).parent / "include"
HEADER = "mlx/backend/cpu/compiled_preamble.h"
# Who comes while the header is being compiled reads it as it is. The options are MLX's own: others make it useless.
# A kernel is found again by its source, and comes by a rename, so nobody reads one that is torn.
SCRIPT = """#!/bin/sh
if [ "$1" = --version ]; then exec {compiler} "$@"; fi
if mkdir {shared}/begun 2>/dev/null; then
    {compiler} -std=c++17 -O3 -Wall -fPIC -I {include} {include}/{header} -o {shared}/ready.gch 2>/dev/null
    mkdir -p "$(dirname {shared}/{header})" && mv {shared}/ready.gch {shared}/{header}.gch
fi
for word; do
    case $word in *.cpp) source=$word ;; *.so) library=$word ;; esac
done
[ -f "$source" ] && [ -n "$library" ] || exec {compiler} -I {shared} "$@"
kept={shared}/$(sha256sum <"$source" | cut -d ' ' -f 1)
[ -f "$kept" ] && exec cp "$kept" "$library"
{compiler} -I {shared} "$@" || exit
cp "$library" "$kept.$$" && mv "$kept.$$" "$kept"
exit 0
"""


def install(folder: Path, shared: Path) -> None:
    """Writes `g++` into `folder`, for a search path to begin with, where there is one that it can call. What it keeps
    lies in `shared`, which may be in use by other processes."""
    shared.mkdir(exist_ok=True)
    compiler = shutil.which("g++")
    if compiler and sys.platform.startswith("linux"):
        places = {"shared": shared, "compiler": compiler, "include": INCLUDE, "header": HEADER}
        script = SCRIPT.format(**{name: quote(str(place)) for name, place in places.items()})
        (folder / "g++").write_text(script, encoding="utf-8")
        (folder / "g++").chmod(0o755)
