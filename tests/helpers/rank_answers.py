"""The program of a rank: loads its part of each directory that is named, and writes the ids it draws, and its bytes.

Arguments: policies of the CPU backend with commas between them, then pairs of a kind of part and a directory.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import mlx.core as mx
import numpy as np
from helpers import checkpoints

from elm_mlx.distributed.part import Part
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.prefill import prefill
from elm_mlx.models.collectives import Collectives, MlxGroup
from elm_mlx.store.load import LoadedModel, load_directory


def answer(loaded: LoadedModel, group: Collectives | None, length: int = 16) -> tuple[list[int], list[list[float]]]:
    """The greedy ids after a prompt, as the engine draws them, a step ahead, and the logits that each was drawn from.
    Where there is a group, ids are those of rank 0."""
    model = loaded.runs
    cache = new_cache(model, loaded.held.num_layers, 120)
    logits = prefill(model, mx.array([checkpoints.prompt()]), cache, replace(loaded.execution, chunk=32))
    ids, all_logits = [], []
    for _ in range(length):
        drawn = mx.argmax(logits, axis=-1).astype(mx.int32)
        if group:
            drawn = group.sum(drawn if group.rank == 0 else mx.zeros_like(drawn))
        mx.async_eval(drawn, logits)
        ids.append(drawn)
        all_logits.append(logits)
        logits = model.head(model.last_hidden(drawn[:, None], cache))
    mx.eval(logits)
    return [one.item() for one in ids], [np.array(one[0].astype(mx.float32)).tolist() for one in all_logits]


def collectives_of_step(loaded: LoadedModel, group: Collectives) -> dict[str, int]:
    """What ranks do together in a decode step, counted by MLX's names in the graph that it draws. Nothing of it is
    computed."""
    cache = new_cache(loaded.runs, loaded.held.num_layers, 4)
    logits = loaded.runs.head(loaded.runs.last_hidden(mx.array([[1]]), cache))
    drawn = group.sum(mx.argmax(logits, axis=-1).astype(mx.int32))
    with NamedTemporaryFile("r", suffix=".dot") as file:
        mx.export_to_dot(file.name, drawn)
        return Counter(re.findall(r'label ="((?:Sum All|All)\w+)"', file.read()))


def main() -> None:
    """Runs the rank."""
    policies, *pairs = sys.argv[1:]
    group = mx.distributed.init(strict=True)
    told: list[Any] = []
    for kind, directory in zip(pairs[::2], pairs[1::2], strict=True):
        part = Part(kind, group.rank(), group.size())  # type: ignore[arg-type]
        for policy in policies.split(","):
            mx.clear_cache()
            before = mx.get_active_memory()
            loaded = load_directory(Path(directory), policy, part=part)
            nbytes = mx.get_active_memory() - before
            ids, logits = answer(loaded, MlxGroup(group))
            told.append({"kind": kind, "directory": directory, "ids": ids, "logits": logits, "bytes": nbytes})
            told[-1]["collectives"] = collectives_of_step(loaded, MlxGroup(group))
            del loaded
    mx.eval(mx.distributed.all_sum(mx.array(1.0)))  # a rank that ends first breaks the others' connections
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
