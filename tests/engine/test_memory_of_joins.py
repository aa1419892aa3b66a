"""A row that joins others takes the memory of its own keys and values twice for a moment, and no more."""

from __future__ import annotations

import gc

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.engines import make_engine

import elm_mlx
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence

POSITIONS, ROWS = 2048, 4
HEADS, WIDTH = 2, 64  # of keys, and as many of queries: scores and masks are small beside keys and values
SCRATCH = 0.25  # of a row: what a step of all rows, and a chunk of a prompt, take for a moment


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> elm_mlx.LanguageModel:
    """A model whose rows take much more memory than what is computed of them."""
    heads = {"head_dim": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    raw = checkpoints.LLAMA | heads | {"num_hidden_layers": 2, "max_position_embeddings": 2 * POSITIONS}
    return elm_mlx.load(checkpoints.write(tmp_path_factory.mktemp("wide") / "wide", raw))


def keep(engine: Engine, prompt: tuple[int, ...]) -> None:
    """Keeps a cache for all of a prompt but its last id."""
    cache = make_cache(engine.layers, POSITIONS, POSITIONS)
    for layer in cache:
        layer.append(*(mx.zeros((1, HEADS, POSITIONS - 1, WIDTH)) for _ in range(2)))
    mx.eval([layer.arrays() for layer in cache])
    assert engine.prefixes.put(prompt[:-1], cache)


def join(engine: Engine, prompt: tuple[int, ...]) -> Sequence:
    """Lets one more row join those that run."""
    one = engine.submit(Request(prompt, 200))
    while len(one.ids) < 3:
        engine.step()
    return one


@pytest.mark.skipif("config.getoption('--device') == 'gpu'", reason="Metal copies what a step before still reads")
@pytest.mark.parametrize("is_kept", [True, False])
def test_while_a_row_joins_its_keys_and_values_are_in_memory_once_more(
    wide: elm_mlx.LanguageModel, is_kept: bool
) -> None:
    engine = make_engine(wide, positions=1_000_000, rows=ROWS, chunk=16, streams=(), grow_by=256)
    gc.collect()  # what other tests of this process have left
    mx.synchronize()
    weights, row = mx.get_active_memory(), POSITIONS * wide.config.kv_bytes_per_token(32)
    *others, last = ((number,) * POSITIONS for number in range(3, 3 + ROWS))
    for prompt in others:
        keep(engine, prompt)
        join(engine, prompt)
    buffers = engine.batch.nbytes
    assert buffers >= ROWS * row  # with a slot that is free
    if is_kept:
        keep(engine, last)
    mx.reset_peak_memory()
    one = join(engine, last)
    assert one.cache is None
    assert one.reused == (POSITIONS - 1 if is_kept else 0)
    assert engine.batch.nbytes == buffers
    assert row <= mx.get_peak_memory() - weights - buffers <= (1 + SCRATCH) * row
