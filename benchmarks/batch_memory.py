"""What memory several requests take beyond what they hold, ours and mlx-lm's, each in a process of its own.

    python benchmarks/batch_memory.py [--shape llama-16x64] [--prompt] [--json FILE]

The rows of 8,192 positions are made of zeros and handed to both programs as caches that exist, since reading so much
on a CPU takes hours. "buffers" is what eight such rows lie in. Over weights and buffers, "joins" is the peak while they
join one after another, "steps" that of steps in which nobody joins or leaves, which is their scratch, and "leaves" that
while four of them leave, all in rows; our buffers grow as on a GPU. With --prompt it is the peak over weights and cache
of reading a prompt of 8,192 ids, at both programs' defaults, in bytes, with two layers of the shape. These are figures
of MLX's allocator, and hardly vary.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

SCHEMA = "elm-mlx batch memory 2"
POSITIONS, ROWS, LEAVING = 8192, 8, 4
SHORT, LONG = 64, 128  # tokens of answers that end and that go on
AFTER, UNCHANGED = 3, 8  # steps after each row has joined, and when all have
FEW_LAYERS = 2  # of the model that reads the long prompt: the peak is that of one layer


def record(program: str, shape: str, prompt: bool) -> dict[str, Any]:
    """A program's figures, in this process."""
    import elm_mlx

    elm_mlx.use_fast_blas()
    from elm_mlx.bench import shapes
    from elm_mlx.bench.random_model import random_model

    if prompt:
        layers = "num_hidden_layers" if "num_hidden_layers" in shapes.SHAPES[shape] else "num_transformer_layers"
        shapes.SHAPES[shape][layers] = FEW_LAYERS
    sys.modules["torch"] = None  # type: ignore[assignment]  # mlx-lm does not need it
    with random_model(shape, dtype="float32") as directory:  # as the caches that it is handed
        if program == "mlx-lm":
            from elm_mlx.bench.theirs import Theirs

            theirs = Theirs(directory)
            return read(theirs, directory) if prompt else joins_and_leaves(theirs.session(ROWS), directory, insert)
        from elm_mlx.bench.ours import Ours
        from elm_mlx.device.execution import GROW_BY

        ours = Ours(elm_mlx.load(directory, cpu_policy="compiled"))
        ours.execution = replace(ours.execution, grow_by=GROW_BY)  # as on a GPU
        return read(ours, directory) if prompt else joins_and_leaves(ours.session(ROWS, reuse=True), directory, submit)


def read(program: Any, directory: Path) -> dict[str, Any]:
    """The peak of reading one long prompt."""
    import mlx.core as mx

    from elm_mlx.bench.batch import answer
    from elm_mlx.bench.loads import Arrival, Load

    held = mx.get_active_memory()
    run = answer(program.session(1), Load([Arrival([7] * POSITIONS, 1)], 1))
    return {"prompt_bytes": run.peak_bytes - held - row_bytes(directory)}


def joins_and_leaves(session: Any, directory: Path, begin: Any) -> dict[str, Any]:
    """The peaks of rows that join, go on together and leave, over weights and buffers, in rows."""
    import mlx.core as mx

    def join() -> None:
        for number in range(ROWS):
            begin(session, directory, number, LONG if number >= LEAVING else SHORT + number)
            go_on(session, AFTER)

    weights, row = mx.get_active_memory(), row_bytes(directory)
    joins, buffers = peak(join), buffer_bytes(session)
    peaks = {
        "joins": joins,
        "steps": peak(lambda: go_on(session, UNCHANGED)),
        "leaves": peak(lambda: go_on(session, SHORT + ROWS)),
    }
    over = {name: (found - weights - buffers) / row for name, found in peaks.items()}
    return {"buffers": buffers / row, **over, "row_bytes": row}


def go_on(session: Any, steps: int) -> None:
    """Lets the rows of a program decode so many steps."""
    for _ in range(steps):
        session.step()


def peak(work: Callable[[], None]) -> int:
    """The most bytes that MLX's arrays take while `work` is done."""
    import mlx.core as mx

    mx.synchronize()
    mx.reset_peak_memory()
    work()
    mx.synchronize()
    return mx.get_peak_memory()


def buffer_bytes(session: Any) -> int:
    """The bytes of the buffers in which a program holds all running rows."""
    return session.engine.batch.nbytes if hasattr(session, "engine") else session.generator.prompt_cache_nbytes


def row_bytes(directory: Path) -> int:
    """The bytes of one row's keys and values."""
    from elm_mlx.store.load import read_config

    return read_config(directory).kv_bytes_per_token(32) * POSITIONS


def zeros(directory: Path) -> Iterator[Any]:
    """Keys of POSITIONS - 1 positions of every layer, one after the other, as one row [1, K, S, D]; the values are
    alike."""
    import mlx.core as mx

    from elm_mlx.store.load import read_config

    config = read_config(directory)
    return (mx.zeros((1, heads, POSITIONS - 1, config.head_dim)) for heads in config.cached_heads)


def submit(session: Any, directory: Path, number: int, tokens: int) -> None:
    """Lets our engine find a kept cache for all of a prompt but its last id."""
    import mlx.core as mx

    from elm_mlx.engine.cache.kv import make_cache

    cache = make_cache(sum(1 for _ in zeros(directory)), POSITIONS, POSITIONS)
    for layer, keys in zip(cache, zeros(directory), strict=True):
        layer.append(keys, keys)
        mx.eval(layer.arrays())
        del keys  # half of what the layer takes
    prompt = [number] * POSITIONS
    assert session.engine.prefixes.put(prompt[:-1], cache)
    del cache, layer
    sequence = session.add(prompt, tokens, keep=False)
    while not sequence.ids:
        session.step()
    assert sequence.reused == POSITIONS - 1


def insert(session: Any, directory: Path, number: int, tokens: int) -> None:
    """Hands mlx-lm's BatchGenerator a cache with a prompt's last id."""
    import mlx.core as mx
    from mlx_lm.models.cache import KVCache

    caches = []
    for keys in zeros(directory):
        cache = KVCache()
        cache.update_and_fetch(keys, keys)
        mx.eval(cache.keys, cache.values)
        caches.append(cache)
        del keys
    session.generator.insert([[number]], [tokens], caches=[caches])
    del caches, cache
    while number not in session.step():
        pass


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shape", default="llama-16x64", help="a shape of elm-mlx bench")
    options.add_argument("--prompt", action="store_true", help="read a prompt of 8,192 ids")
    options.add_argument("--json", type=Path, help="a file for the figures")
    options.add_argument("--record", choices=("elm-mlx", "mlx-lm"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.record:
        print(json.dumps(record(given.record, given.shape, given.prompt)))
        return
    found: dict[str, Any] = {"schema": SCHEMA, "shape": given.shape}
    for program in ("elm-mlx", "mlx-lm"):
        command = [sys.executable, __file__, *sys.argv[1:], "--record", program]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[program] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
