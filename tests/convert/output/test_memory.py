"""Conversion holds tensors in memory, not models."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints, torch_craft

from elm_mlx.config import Shape, config_from_dict
from elm_mlx.store.weights import Entry, file_head

VOCABULARY, LARGE_VOCABULARY = 16384, 65536  # tables of 67 and 268 MB

Shapes = dict[str, Shape]


def model(vocabulary: int, divided: int) -> dict[str, Any]:
    """Twelve layers of 61 MB each in float32 and a table, all widths `divided` by this."""
    widths = {"hidden_size": 1024, "intermediate_size": 4096, "head_dim": 128, "vocab_size": vocabulary}
    whole = {"num_attention_heads": 8, "num_hidden_layers": 12, "tie_word_embeddings": True}
    return checkpoints.LLAMA | whole | {name: width // divided for name, width in widths.items()}


def safetensors(folder: Path, shapes: Shapes) -> None:
    """A float32 checkpoint of zeros that takes no disk."""
    entries = {name: Entry(mx.float32, shape) for name, shape in shapes.items()}
    with (folder / "model.safetensors").open("wb") as file:
        file.write(file_head(entries))
        file.truncate(file.tell() + sum(entry.nbytes for entry in entries.values()))


def torch(path: Path, shapes: Shapes, kind: str = "Float", columns: bool = False) -> None:
    """A checkpoint as PyTorch saves it, every tensor over one storage, row by row or column by column."""
    length = max(map(prod, shapes.values()))
    storage, tensors = torch_craft.storage(f"torch {kind}Storage", "0", length), []
    for name, shape in shapes.items():
        strides = (1, shape[0])[: len(shape)] if columns else (shape[-1], 1)[-len(shape) :]
        tensors.append((name, torch_craft.tensor(shape, strides, 0, storage)))
    program = torch_craft.program(torch_craft.dictionary(*tensors))
    zeros = torch_craft.Member("toy/data/0", b"", hole=length * {"Float": 4, "Double": 8}[kind])
    with path.open("wb") as file:
        torch_craft.write_archive(file, [torch_craft.Member("toy/data.pkl", program), zeros])


def floats(folder: Path, shapes: Shapes) -> None:
    """PyTorch's file as it usually is."""
    torch(folder / "pytorch_model.bin", shapes)


def columns_of_doubles(folder: Path, shapes: Shapes) -> None:
    """A checkpoint whose matrices were saved transposed."""
    torch(folder / "pytorch_model.bin", shapes, "Double", columns=True)


def metas(folder: Path, shapes: Shapes) -> None:
    """Meta's files, in two shards."""
    dealt: Shapes = {}
    for name, shape in shapes.items():
        for theirs, metas in checkpoints.META_NAMES.items():
            name = name.replace(theirs, metas)
        halved = None if len(shape) == 1 else int(name.endswith(("wo.weight", "w2.weight")))
        dealt[name] = tuple(size // 2 if axis == halved else size for axis, size in enumerate(shape))
    for rank in range(2):
        torch(folder / f"consolidated.0{rank}.pth", dealt)
    width, hidden = shapes["model.layers.0.mlp.up_proj.weight"][::-1]
    params = {"dim": width, "n_layers": 12, "n_heads": 8, "n_kv_heads": 2, "multiple_of": hidden}
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")


def anonymous(process: int | str) -> int:
    """Bytes of a process that no file backs; 0 once it has ended."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("RssAnon:")[2].split()[0]) if "RssAnon:" in status else 0


def peak(script: str, *arguments: Path) -> int:
    """The most that a program of ours has at a time, as far as a look every two milliseconds can tell."""
    most = 0
    with subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)]) as process:
        while process.poll() is None:
            most = max(most, anonymous(process.pid))
            time.sleep(0.002)
    assert process.returncode == 0
    return most


@pytest.fixture(scope="module")
def interpreter() -> int:
    """What a program takes that does nothing."""
    return peak("import time; time.sleep(0.1)")


CONVERT = """
import sys
from elm_mlx.convert import convert
from elm_mlx.convert.output import pipeline
pipeline.AHEAD_BYTES //= {divided}
pipeline.CACHE_BYTES //= {divided}
convert(*sys.argv[1:], {options})
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux's /proc")
@pytest.mark.parametrize("divided", [2, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("write", "vocabulary", "options"),
    [
        (safetensors, VOCABULARY, "bits=4"),
        pytest.param(safetensors, VOCABULARY, "dtype='float16'", marks=pytest.mark.slow),
        pytest.param(floats, VOCABULARY, "dtype='float16'", marks=pytest.mark.slow),
        pytest.param(columns_of_doubles, LARGE_VOCABULARY, "dtype='float16'", marks=pytest.mark.slow),
        pytest.param(metas, VOCABULARY, "dtype='float16'", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_memory_is_bounded_by_the_largest_tensor(
    tmp_path: Path, interpreter: int, write: Callable[[Path, Shapes], None], vocabulary: int, options: str, divided: int
) -> None:
    """Twice the largest tensor and 200 MB suffice: a quarter of both where the model and what is read ahead are a
    quarter as large."""
    raw = model(vocabulary, divided)
    source, shapes = tmp_path / "source", config_from_dict(raw).weight_shapes()
    source.mkdir()
    (source / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    checkpoints.add_tokenizer(source)
    write(source, shapes)
    script = CONVERT.format(divided=divided**2, options=options)
    taken = peak(script, source, tmp_path / "out") - interpreter
    sizes = [4 * prod(shape) for shape in shapes.values()]
    bound = 2 * max(sizes) + 200 * 10**6 // divided**2
    assert max(sizes) / 2 < taken < bound < 0.75 * sum(sizes)
