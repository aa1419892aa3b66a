"""On a Mac's GPU: programs start on it, and its kernels say what the plain code and the CPU say, but for near ties."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx import demo
from elm_mlx.bench.measure import BOUND
from elm_mlx.models import build
from elm_mlx.models.parameters import Parameters
from elm_mlx.store.load import load_arrays, read_config

pytestmark = [
    pytest.mark.metal,
    pytest.mark.skipif(not mx.metal.is_available(), reason="needs a Metal device"),
]


@pytest.fixture(autouse=True)
def _on_the_gpu() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.gpu)
    yield
    mx.set_default_device(before)


def below_best(logits: mx.array, tokens: list[int]) -> float:
    """How far tokens lie below the best of logits [tokens, V] at most, as a share of the largest."""
    chosen = mx.take_along_axis(logits, mx.array(tokens)[:, None], axis=-1)
    return float((mx.max(logits, axis=-1, keepdims=True) - chosen).max() / mx.abs(logits).max())


def test_a_process_starts_on_the_gpu() -> None:
    script = "import elm_mlx, mlx.core as mx; print(mx.default_device().type == mx.gpu, elm_mlx.load().notice)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "True None\n"


@pytest.mark.parametrize("family", ["llama", "openelm"])
@pytest.mark.parametrize("head_dim", [16, 64])  # without a kernel of attention for it, and with one
def test_compiled_steps_say_what_the_plain_twin_says(family: str, head_dim: int, tmp_path: Path) -> None:
    raw = {"llama": checkpoints.LLAMA, "openelm": checkpoints.OPENELM}[family] | {"head_dim": head_dim}
    source, ids = checkpoints.write(tmp_path / family, raw), checkpoints.prompt()
    arrays, _ = load_arrays(source, config := read_config(source))
    plain = build(config, Parameters(arrays, None, mx.float32), compiled=False)
    said = [piece.token for piece in elm_mlx.load(source).stream(ids, max_tokens=32)]
    logits = plain(mx.array([ids + said[:-1]]))[0, len(ids) - 1 :]
    assert below_best(logits, said) <= BOUND


def test_the_demo_tells_the_story_that_it_tells_on_the_cpu() -> None:
    told = elm_mlx.load().generate(demo.PROMPT, max_tokens=40).tokens
    mx.set_default_device(mx.cpu)
    lm = elm_mlx.load()
    ids = lm.tokenizer.encode(demo.PROMPT)
    assert len(told) == 40
    assert below_best(lm.logits(ids + told[:-1])[len(ids) - 1 :], told) <= BOUND
