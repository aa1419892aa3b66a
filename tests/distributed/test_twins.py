"""Two engines that take the same steps: one decides, and the other has another model and less memory a position."""

from __future__ import annotations

import random

import pytest
from helpers import checkpoints
from helpers.engines import check_answers, random_request
from helpers.twins import Twins

import elm_mlx
from elm_mlx.distributed.wire import difference, state_of
from elm_mlx.engine.cache.kind import PLAIN, CacheKind

KINDS = (PLAIN, PLAIN, CacheKind(window=16, sinks=4, margin=16), CacheKind(key_bits=8, value_bits=8))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> elm_mlx.LanguageModel:
    return load_layers(tmp_path_factory, 2)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> elm_mlx.LanguageModel:
    return load_layers(tmp_path_factory, 1)


def load_layers(factory: pytest.TempPathFactory, layers: int) -> elm_mlx.LanguageModel:
    raw = checkpoints.LLAMA | {"num_hidden_layers": layers}
    return elm_mlx.load(checkpoints.write(factory.mktemp("model") / "model", raw))


def drive(twins: Twins, rng: random.Random, count: int) -> list:
    todo = [random_request(rng, number, KINDS) for number in range(count)]
    sequences = []
    while todo or not all(one.finish for one in sequences):
        while todo and rng.random() < 0.4:
            sequences.append(twins.leader.submit(todo.pop()))
        if sequences and rng.random() < 0.05:
            twins.leader.cancel(rng.choice(sequences))
        if rng.random() < 0.02:
            twins.leader.forget_prefixes()
        for one in sequences:
            if rng.random() < 0.05:
                one.bound = 2
            if rng.random() < 0.3 or not twins.leader.has_work:
                one.taken, one.bound = len(one.ids), None
        twins.step()
        if rng.random() < 0.5:
            assert difference(state_of(twins.leader), state_of(twins.follower)) is None
    return sequences


@pytest.mark.parametrize("seed", range(4))
def test_a_follower_takes_the_same_steps(one, other, seed: int) -> None:
    rng = random.Random(seed)
    twins = Twins(one, other, rng.choice([200, 400, 2000]), rows=rng.choice([2, 4, 8]), chunk=rng.choice([32, 256]))
    sequences = drive(twins, rng, 30)
    assert not twins.line.draws
    check_answers(one, sequences)
