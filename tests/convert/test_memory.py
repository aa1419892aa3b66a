"""Conversion holds tensors in memory, not models."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from math import prod
from pathlib import Path
from typing import Any

import checkpoints
import mlx.core as mx
import pytest

from elm_mlx.config import config_from_dict
from elm_mlx.store.weights import Entry, file_head

# Twelve layers and a table of 67 MB each in float32.
LARGE = checkpoints.LLAMA | {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "head_dim": 128, "num_hidden_layers": 12,
    "vocab_size": 16384, "tie_word_embeddings": True,
}  # fmt: skip


def sparse(folder: Path, raw: dict[str, Any]) -> list[int]:
    """A float32 checkpoint of zeros that takes no disk; the bytes of its tensors."""
    entries = {name: Entry(mx.float32, shape) for name, shape in config_from_dict(raw).weight_shapes().items()}
    sizes = [4 * prod(entry.shape) for entry in entries.values()]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    checkpoints.add_tokenizer(folder)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(file_head(entries))
        file.truncate(file.tell() + sum(sizes))
    return sizes


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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux's /proc")
@pytest.mark.parametrize("options", ["bits=4", "dtype='float16'"])
def test_memory_is_bounded_by_the_largest_tensor(tmp_path: Path, options: str) -> None:
    sizes = sparse(tmp_path / "source", LARGE)
    interpreter = peak("import time; time.sleep(0.1)")
    convert = f"import sys; from elm_mlx.convert import convert; convert(*sys.argv[1:], {options})"
    taken = peak(convert, tmp_path / "source", tmp_path / "out") - interpreter
    bound = 2 * max(sizes) + 200 * 10**6
    assert max(sizes) < taken < bound < sum(sizes) / 2
