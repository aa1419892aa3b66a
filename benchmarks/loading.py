"""Peak memory and time of loading a model: ours as stored, ours under the CPU policy, and mlx-lm.

    python benchmarks/loading.py DIR        (a converted model)

Each program loads in a process of its own. MLX's peak counts arrays, and is divided by the bytes of the stored weights:
1.0 is one copy of the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

OURS = """
import sys, time, elm_mlx, mlx.core as mx
begun = time.perf_counter()
elm_mlx.load(sys.argv[1], cpu_policy="{policy}")
print(time.perf_counter() - begun, mx.get_peak_memory())
"""
THEIRS = """
import sys, time, mlx.core as mx
from pathlib import Path
from mlx_lm.utils import load_model
begun = time.perf_counter()
load_model(Path(sys.argv[1]))
print(time.perf_counter() - begun, mx.get_peak_memory())
"""
PROGRAMS = {"elm-mlx as stored": OURS.format(policy="plain"), "elm-mlx": OURS.format(policy="auto"), "mlx-lm": THEIRS}


def main() -> None:
    """Prints one JSON object: for each program the seconds, and the peak divided by the stored bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="A converted model.")
    directory = parser.parse_args().directory
    import elm_mlx  # here, as --help needs no MLX

    stored = elm_mlx.info(directory).weight_bytes
    figures = {}
    for name, script in PROGRAMS.items():
        done = subprocess.run([sys.executable, "-c", script, directory], check=True, capture_output=True, text=True)
        seconds, peak = map(float, done.stdout.split())
        figures[name] = {"seconds": seconds, "peak_over_stored": peak / stored}
    print(json.dumps({"stored_bytes": stored, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
