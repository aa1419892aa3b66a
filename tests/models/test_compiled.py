"""The compiled step is the plain walk through the blocks: the same tokens, the same numbers, no more memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints, goldens

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.engine.cache.kv import KVCache, make_cache
from elm_mlx.engine.plain import generate
from elm_mlx.engine.sampling import Sampler, Sampling
from elm_mlx.models.model import Model

STORED = [
    {"dtype": "float32"},
    pytest.param({"dtype": "bfloat16"}, marks=pytest.mark.slow),
    pytest.param({"recipe": "mixed-4-6"}, marks=pytest.mark.slow),
    pytest.param({"bits": 4, "group_size": 32, "dtype": "float32"}, marks=pytest.mark.slow),  # kernels of its own
]
each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)


def steps(model: Model, cache: list[KVCache], tokens: list[int]) -> mx.array:
    """Logits [steps, V] after each of the tokens, fed one by one."""
    return mx.concatenate([model.head(model.last_hidden(mx.array([[token]]), cache)) for token in tokens])


def test_the_compiled_model_computes_what_pytorch_computed(source: Path) -> None:
    lm = elm_mlx.load(source, cpu_policy="compiled")
    assert lm.model.step
    goldens.check(lm.model, source.name)


@each_family
@pytest.mark.parametrize("how", STORED, ids=str)
def test_compiled_and_plain_say_the_same(source: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    """Across a buffer that grows twice, in every form that weights are stored in."""
    output = convert(source, tmp_path / "out", **how).output
    said = []
    for policy in ("plain", "compiled"):
        model = elm_mlx.load(output, cpu_policy=policy).model
        assert bool(model.step) == (policy == "compiled")
        cache = make_cache(model.config.num_layers, 100, reserve=20)
        said.append(list(generate(model, checkpoints.prompt(16), cache, Sampler(Sampling()), max_tokens=48)))
    assert said[0] == said[1]


@each_family
def test_a_step_gives_the_numbers_of_its_plain_twin_for_a_batch_too(source: Path) -> None:
    plain, compiled = (elm_mlx.load(source, cpu_policy=policy).model for policy in ("plain", "compiled"))
    for rows in (1, 2):
        logits = []
        for model in (plain, compiled):
            cache = make_cache(model.config.num_layers, 20)
            model.hidden(mx.array([checkpoints.prompt(9)] * rows), cache)
            last = [model.head(model.last_hidden(mx.array([[5]] * rows), cache)) for _ in range(3)]
            logits.append(mx.stack(last))
        difference = mx.abs(logits[0] - logits[1]).max() / mx.abs(logits[0]).max()
        assert float(difference) <= goldens.TOLERANCE


@each_family
def test_the_last_state_is_the_last_of_all_states(lm: elm_mlx.LanguageModel) -> None:
    ids = mx.array([checkpoints.prompt(24), checkpoints.prompt(24, 7)])
    caches = [make_cache(lm.config.num_layers, 30) for _ in range(2)]
    states, last = lm.model.hidden(ids, caches[0]), lm.model.last_hidden(ids, caches[1])
    assert float(mx.abs(states[:, -1] - last).max()) <= goldens.TOLERANCE * float(mx.abs(states).max())
    for one, other in zip(*caches, strict=True):
        assert one.offset == other.offset == 24
        assert all(mx.array_equal(a, b) for a, b in zip(one.arrays(), other.arrays(), strict=True))


def test_decoding_takes_the_cache_and_nothing_that_grows(openelm: Path) -> None:
    """64 steps need no more than the cache and one hundredth of it: no step copies it."""
    model = elm_mlx.load(openelm, cpu_policy="compiled").model
    cache = make_cache(model.config.num_layers, 65_536, reserve=65_536)
    mx.eval(steps(model, cache, [5]))
    held = sum(array.nbytes for layer in cache for array in layer.arrays())
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    token = mx.array([5])
    for _ in range(64):
        token = mx.argmax(model.head(model.last_hidden(token[:, None], cache)), axis=-1)
        mx.async_eval(token)
    mx.eval(token)
    assert mx.get_peak_memory() - before <= 0.01 * held
