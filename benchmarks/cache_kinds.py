"""What kinds of caches cost: exactness, bytes, attention, a chat's turn past a window, memory while a prompt is read.

    python benchmarks/cache_kinds.py [--only NAME ...] [--runs N] [--json FILE]

KL is the mean over tokens of KL(floats || kind) in nats, on stories held out from the demo's training, in float32. The
other figures are one layer's, in the shape of a Llama 3.2 1B: 32 query heads, 8 key heads, 64 wide. Times are this
process's processor time, medians of runs in turns with mlx-lm, which needs its extra. On Metal these kernels differ:
there count launches and bytes (docs/kernels.md).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import elm_mlx
from elm_mlx.errors import InvalidRequest, NotFound

with suppress(NotFound, InvalidRequest):  # some machines have no fast BLAS; it must come before MLX
    elm_mlx.use_fast_blas()

import mlx.core as mx
import numpy as np

from elm_mlx.engine.cache.forms import form_of
from elm_mlx.engine.cache.kind import CacheKind
from elm_mlx.engine.cache.kind_cache import KindCache, make_kind_cache
from elm_mlx.engine.cache.kv import KVCache, make_cache
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.prefill import all_logits
from elm_mlx.files import write_whole

STORIES = Path(__file__).parents[1] / "elm_mlx/demo/held_out.txt"
H, K, D = 32, 8, 64
DEPTH, WINDOW, TURN, SINKS = 8192, 4096, 32, 4
KINDS = {
    "8 bits": CacheKind(key_bits=8, value_bits=8),
    "k8v4": CacheKind(key_bits=8, value_bits=4),
    "4 bits": CacheKind(key_bits=4, value_bits=4),
}
Work = Callable[[], Any]


def exactness(runs: int) -> dict[str, Any]:
    """KL of each kind, how often the likeliest token is the same, and perplexity, on the demo."""
    del runs
    with elm_mlx.load() as lm:
        texts = [line for line in STORIES.read_text(encoding="utf-8").splitlines() if len(line) > 100]
        ids = [lm.tokenizer.encode(text)[: lm.config.context_length] for text in islice(texts, 24)]
        sums = {name: np.zeros(4) for name in ("floats", *KINDS)}
        for one in ids:
            floats = lm._worker.call(lambda engine, one=one: log_probabilities(engine, one, None))
            for name, kind in {"floats": None, **KINDS}.items():
                found = lm._worker.call(lambda engine, one=one, kind=kind: log_probabilities(engine, one, kind))
                sums[name] += compared(floats, found, one)
    return {name: dict(zip(("KL", "same", "perplexity"), averaged(total), strict=True)) for name, total in sums.items()}


def log_probabilities(engine: Engine, ids: list[int], kind: CacheKind | None) -> np.ndarray:
    """The log-probabilities after every id, (L, V)."""
    layers, length = engine.layers, len(ids)
    cache = make_kind_cache(kind, layers, length) if kind else make_cache(layers, length)
    logits = all_logits(engine.model, mx.array([ids]), cache, engine.execution)[0].astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def compared(floats: np.ndarray, found: np.ndarray, ids: list[int]) -> np.ndarray:
    """(sum of KL, how often the likeliest is the same, sum of -log p of the text, tokens)."""
    divergence = (np.exp(floats) * (floats - found)).sum()
    same = (floats.argmax(axis=1) == found.argmax(axis=1)).sum()
    surprise = -found[np.arange(len(ids) - 1), ids[1:]].mean() * len(ids)
    return np.array([divergence, same, surprise, len(ids)])


def averaged(sums: np.ndarray) -> tuple[float, float, float]:
    """(KL, share of equal likeliest tokens, perplexity)."""
    return sums[0] / sums[3], sums[1] / sums[3], float(np.exp(sums[2] / sums[3]))


def nbytes(runs: int) -> dict[str, Any]:
    """Bytes of a position in one layer, and the share of 16-bit floats."""
    del runs
    plain = 2 * K * D * 2
    found = {name: kind.bytes_of(1000, plain, D, 16) / 1000 for name, kind in KINDS.items()}
    return {"16 bits": plain} | {name: {"bytes": n, "share": n / plain} for name, n in found.items()}


def attention(runs: int) -> dict[str, Any]:
    """One query over 8k positions in 8 and 4 bits: ours, mlx-lm's, and ours over floats."""
    from mlx_lm.models.base import quantized_scaled_dot_product_attention as theirs

    q, k, v = (random_heads(heads, length) for heads, length in ((H, 1), (K, DEPTH), (K, DEPTH)))
    found: dict[str, Any] = {}
    for bits in (8, 4):
        form = form_of(CacheKind(key_bits=bits, value_bits=bits))
        held = form.encode(k, v)
        mx.eval(held)
        keys, values = tuple(held[:3]), tuple(held[3:])
        works: dict[str, Work] = {
            "ours": lambda form=form, held=held: form.attend(q, held, None),
            "mlx-lm": lambda bits=bits, keys=keys, values=values: theirs(q + 0, keys, values, D**-0.5, None, 64, bits),
        }
        difference = float(mx.abs(works["ours"]() - works["mlx-lm"]()).max())
        found[f"{bits} bits"] = {"difference": difference} | in_turns(works, runs)
    floats = {"ours": lambda: mx.fast.scaled_dot_product_attention(q, k, v, scale=D**-0.5)}
    return found | {"floats": in_turns(floats, runs)}


def turn(runs: int) -> dict[str, Any]:
    """A chat's turn of 32 tokens, and one token after it, where a window of 4,096 was passed long ago: ours, mlx-lm's;
    with attention, and the cache's part alone."""
    from mlx_lm.models.base import scaled_dot_product_attention as theirs
    from mlx_lm.models.cache import RotatingKVCache

    ours = make_kind_cache(CacheKind(WINDOW, SINKS), 1, 10**9)[0]
    other = RotatingKVCache(WINDOW + SINKS, keep=SINKS)
    for _ in range(2 * WINDOW // 512):
        block = random_heads(K, 512)
        ours.attend(random_heads(H, 1), block, block)
        other.update_and_fetch(block, block)
        mx.eval(ours.arrays(), other.keys, other.values)
    for _ in range(300):  # as an answer leaves it: rotated
        token = random_heads(K, 1)
        ours.attend(random_heads(H, 1), token, token)
        other.update_and_fetch(token, token)
        mx.eval(ours.arrays(), other.keys, other.values)
    steps = [(random_heads(H, L), random_heads(K, L)) for L in (TURN, 1)]

    def our_turn() -> None:
        for q, new in steps:
            mx.eval(ours.attend(q, new, new), ours.arrays())

    def their_turn() -> None:
        for q, new in steps:
            mask = other.make_mask(q.shape[2])
            keys, values = other.update_and_fetch(new, new)
            mx.eval(theirs(q, keys, values, other, D**-0.5, mask), other.keys, other.values)

    def our_writes() -> None:
        for _, new in steps:
            ours._write(new, new)
            mx.eval(ours.arrays())

    def their_writes() -> None:
        for _, new in steps:
            other.update_and_fetch(new, new)
            mx.eval(other.keys, other.values)

    # After each turn, answers that leave the cache as a turn finds it.
    whole = in_turns({"ours": our_turn, "mlx-lm": their_turn}, runs, lambda: settle(ours, other))
    alone = in_turns({"ours": our_writes, "mlx-lm": their_writes}, runs, lambda: settle(ours, other))
    return {"with attention": whole, "the cache alone": alone}


def settle(ours: KindCache, other: Any) -> None:
    """Some tokens of an answer, untimed."""
    for _ in range(4):
        token = random_heads(K, 1)
        ours._write(token, token)
        other.update_and_fetch(token, token)
        mx.eval(ours.arrays(), other.keys, other.values)


def peak(runs: int) -> dict[str, Any]:
    """Bytes that a chunk of 256 takes at depth 8k, over what the cache holds: floats, 8 bits restored to floats, and 8
    bits in one quantized product."""
    del runs
    found = {}
    for name, kind in {"floats": None, "8 bits": KINDS["8 bits"]}.items():
        cache: Any = make_kind_cache(kind, 1, DEPTH)[0] if kind else KVCache(DEPTH)
        chunk = random_heads(K, 256)
        for _ in range(DEPTH // 256 - 1):
            cache.attend(random_heads(H, 1), chunk, chunk)
            mx.eval(cache.arrays())
        found[name] = taken(lambda cache=cache, chunk=chunk: cache.attend(random_heads(H, 256), chunk, chunk))
        if kind:
            held, q = cache.arrays(), random_heads(H, 256)
            found[f"{name}, one product"] = taken(
                lambda cache=cache, held=held, q=q: cache.form._few(q, held, "causal")
            )
    return found


def taken(work: Work) -> int:
    """The bytes that a piece of work took at most, beyond what was there."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(work())
    return mx.get_peak_memory() - before


def random_heads(heads: int, length: int) -> mx.array:
    """[1, heads, L, D], evaluated."""
    made = mx.random.normal((1, heads, length, D))
    mx.eval(made)
    return made


def in_turns(works: dict[str, Work], runs: int, between: Work = lambda: None) -> dict[str, float]:
    """Milliseconds of processor time of each piece of work, medians; with two, how often the first goes into the
    second."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs + 1):  # the first does not count
        for name, work in works.items():
            between()
            begun = time.process_time()
            mx.eval(work())
            spent[name].append(1000 * (time.process_time() - begun))
    medians = {name: statistics.median(times[1:]) for name, times in spent.items()}
    first, *second = (times[1:] for times in spent.values())
    ratios = [theirs / ours for ours, theirs in zip(first, second[0], strict=True)] if second else []
    return medians | ({"ratio": statistics.median(ratios)} if ratios else {})


MEASURES = {"exactness": exactness, "bytes": nbytes, "attention": attention, "turn": turn, "peak": peak}


def main() -> None:
    """Measures what is asked for, and prints it."""
    parser = argparse.ArgumentParser(description="Measures kinds of caches.")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="these alone")
    parser.add_argument("--runs", type=int, default=15, help="of everything that is timed")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    asked = parser.parse_args()
    figures = {name: MEASURES[name](asked.runs) for name in asked.only}
    print(json.dumps(figures, indent=2))
    if asked.json:
        write_whole(asked.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
