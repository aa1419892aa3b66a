"""Every kernel that Metal would launch for one decode step, ours and mlx-lm's, and the bytes that each moves.

    python benchmarks/ledger.py [--bits 4] [--depth 900] [--batch 1] [--json]

The kernels are counted, not measured, on any machine: each program runs its own decoding loop over the same files in a
process of its own, and what it submits for one step is recorded (`tape.py`) and counted by one set of rules
(`kernels.py`). A layer is the difference between models of three layers and of two. docs/kernels.md says how far this
can be trusted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PROGRAMS = ("elm-mlx", "mlx-lm")
FAMILIES = ("llama", "openelm")
OURS_ALONE = ("bitnet",)  # mlx-lm's kernels for it are Metal's alone
LAYERS = (2, 3)
STEADY = 16  # submissions for each of several rows, after which all of them have begun
ENOUGH = 256  # tokens of an answer that is still going on when its step is recorded


@dataclass(frozen=True)
class Ledger:
    """One program's kernels for a family of models, each as [kind, shape, bytes]: those of one layer, and all that are
    outside the layers."""

    layer: list[Any]
    outside: list[Any]


def shape_of(family: str, layers: int) -> dict[str, Any]:
    """A small config.json whose layers are all alike, with heads 64 wide: Metal's attention has no kernel for heads 8
    or 16 wide, which the narrow shapes have."""
    from elm_mlx.bench import shapes

    if family != "openelm":
        llama = shapes.llama(layers, 512, 8, 1024, 32.0, kv_heads=2, vocab=shapes.NARROW_VOCAB)
        return llama | ({"model_type": "bitnet", "hidden_act": "relu2"} if family == "bitnet" else {})
    alike = {"qkv_multipliers": [1.0, 1.0], "ffn_multipliers": [2.0, 2.0]}
    return shapes.openelm(layers, 512, 64, vocab=shapes.NARROW_VOCAB) | alike


def count(program: str, bits: int, depth: int, batch: int = 1) -> dict[str, Ledger]:
    """Records a program's steps for `batch` requests in a process of their own, and returns its ledger for every
    family."""
    command = [sys.executable, __file__, "--record", program, "--bits", str(bits), "--depth", str(depth),
               "--batch", str(batch)]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {family: Ledger(**made) for family, made in json.loads(done.stdout.splitlines()[-1]).items()}


def record(program: str, bits: int, depth: int, batch: int) -> dict[str, Any]:
    """Records a program's steps in this process: the fields of its ledger for every family. The stand-ins must be in
    place before the program is imported."""
    import tape

    recorder = tape.install()
    sys.modules["torch"] = None  # type: ignore[assignment]  # mlx-lm does not need it
    number = STEADY * batch if batch > 1 else tape.STEP  # of the submission
    prompts = [list(range(depth - number - row)) for row in range(batch)]  # of different lengths
    found = {}
    for family in FAMILIES + (OURS_ALONE if program == "elm-mlx" else ()):
        both = [step(program, shape_of(family, n), bits, prompts, (recorder, number)) for n in LAYERS]
        found[family] = vars(split(*both))
    return found


def step(program: str, shape: dict[str, Any], bits: int, prompts: list[list[int]], recording: Any) -> list[Any]:
    """The kernels of one decode step of all prompts together, with weights of 4 or 8 bits, or of 16 (bfloat16)."""
    from kernels import kernels
    from tape import recorded

    from elm_mlx import load
    from elm_mlx.bench import shapes
    from elm_mlx.bench.ours import Ours
    from elm_mlx.bench.random_model import random_model
    from elm_mlx.bench.theirs import Theirs
    from elm_mlx.device.execution import Execution
    from elm_mlx.store import load as loading

    loading.choose_execution = lambda *_: Execution()  # type: ignore[assignment]  # as on a GPU
    shapes.SHAPES["ledger"] = shape
    with random_model("ledger", bits if bits < 16 else None, "bfloat16") as directory:
        answering = Theirs(directory) if program == "mlx-lm" else Ours(load(directory))
        return kernels(recorded(lambda: steps(answering, prompts), *recording))


def steps(program: Any, prompts: list[list[int]]) -> Iterator[Any]:
    """A program's decode steps for all prompts together; mlx-lm has another loop for one prompt than for several."""
    if len(prompts) == 1:
        yield from program.decode(prompts[0], ENOUGH)
    session = program.session(len(prompts))
    for prompt in prompts:
        session.add(prompt, ENOUGH)
    while True:
        yield session.step()


def split(short: list[Any], long: list[Any]) -> Ledger:
    """The layer by which the model of `long` exceeds that of `short`, and all that is outside the layers, also where it
    is made when the first layer needs it, as a mask is. Raises ValueError if the layers differ from one another."""
    more = len(long) - len(short)
    start = next(i for i in range(len(short) + 1) if long[i + more :] == short[i:])
    layer, outside = long[start : start + more], list(short)
    try:
        for kernel in layer * LAYERS[0]:
            outside.remove(kernel)
    except ValueError:
        raise ValueError("The layers of the recorded model are not alike, so none stands for the others.") from None
    return Ledger(layer, outside)


def table(counted: dict[str, dict[str, Ledger]], family: str) -> list[str]:
    """The lines of a Markdown table: for each kind of kernel, how many each program launches, and their bytes."""
    lines = [line("part", "kernel", "elm-mlx", "bytes", "mlx-lm", "bytes"), "|---|---|--:|--:|--:|--:|"]
    for part in ("layer", "outside"):
        sides = [getattr(counted[program][family], part) for program in PROGRAMS]
        for kind in dict.fromkeys(kernel[0] for side in sides for kernel in side):
            lines.append(line(part, kind, *cells([[kernel for kernel in side if kernel[0] == kind] for side in sides])))
        lines.append(line(part, "all", *cells(sides)))
    return lines


def cells(sides: list[list[Any]]) -> list[str]:
    """For each side, how many kernels it has and how many bytes they move."""
    return [cell for side in sides for cell in (f"{len(side)}", f"{sum(kernel[2] for kernel in side):,}")]


def line(*columns: str) -> str:
    part, kind, *numbers = columns
    return f"| {part:<7} | {kind:<31} | {' | '.join(f'{number:>9}' for number in numbers)} |"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--bits", type=int, default=4, help="4 or 8, or 16 for bfloat16")
    options.add_argument("--depth", type=int, default=900, help="positions in the cache")
    options.add_argument("--batch", type=int, default=1, help="requests that are answered together")
    options.add_argument("--json", action="store_true", help="every kernel, in order")
    options.add_argument("--record", choices=PROGRAMS, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.record:
        print(json.dumps(record(given.record, given.bits, given.depth, given.batch)))
        return
    counted = {program: count(program, given.bits, given.depth, given.batch) for program in PROGRAMS}
    if given.json:
        print(json.dumps({p: {f: vars(one) for f, one in found.items()} for p, found in counted.items()}))
        return
    for family in FAMILIES:
        print(f"\n{family}, {given.bits} bits, {given.depth} positions held, {given.batch} rows\n")
        print("\n".join(table(counted, family)))


if __name__ == "__main__":
    main()
