"""Hundreds of random requests to two processes give the answers of one, however they come, leave and wait."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from helpers import checkpoints
from helpers.engines import plain_ids
from helpers.rank_crowd import ask_all
from helpers.rank_runs import PATH, ranks
from helpers.shallow import shallow
from helpers.varied import varied

import elm_mlx

SCRIPT = """
import random
from helpers.varied import drive, varied
def main(lm, ranks):
    seed, count = int(sys.argv[3]), int(sys.argv[4])
    rng = random.Random(seed)
    todo = [varied(rng, number) for number in range(count)]
    found = lm._worker.call(lambda engine: drive(engine, rng, todo, engine.step))
    say(json.dumps([[one.request.seed, one.ids, one.finish] for one in found]))
run(main, sys.argv[1], sys.argv[2] or None, rows=int(sys.argv[5]), cache_bytes=int(sys.argv[6]))
"""


def check(folder: Path, kind: str, seed: int, count: int) -> None:
    """Asserts that random requests get from two ranks what each gets alone, up to where it was ended."""
    model = checkpoints.write(folder / "model", shallow(checkpoints.LLAMA))
    rows, room = random.Random(seed).choice([(1, 500), (2, 300), (4, 700), (8, 5000)])
    with elm_mlx.load(model) as lm:
        unit = lm.config.kv_bytes_per_token(8 * lm.model.dtype.size)
        share = unit // (2 if kind == "tensor" else 1)
        with ranks(folder, SCRIPT, model, kind, seed, count, rows, room * share, PYTHONPATH=PATH) as run:
            first, second = run.ended()
        assert (first.code, first.error, second.code, second.error) == (0, "", 0, "")
        rng = random.Random(seed)
        requests = {request.seed: request for request in [varied(rng, number) for number in range(count)]}
        answers = json.loads(first.out.splitlines()[-1])
        assert len(answers) == count
        for number, ids, finish in answers:
            expected = plain_ids(lm, requests[number])
            assert ids == (expected if finish in ("stop", "length") else expected[: len(ids)]), requests[number]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "tensor"])
def test_random_requests_to_two_processes(tmp_path: Path, kind: str) -> None:
    check(tmp_path, kind, 1, 40)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["", "tensor", "pipeline"])
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_random_requests_to_two_processes(tmp_path: Path, kind: str, seed: int) -> None:
    check(tmp_path, kind, seed, 150)


CROWD = """
from helpers.rank_crowd import ask_all
def main(lm, ranks):
    say(json.dumps(ask_all(lm, int(sys.argv[3]), 150)))
run(main, sys.argv[1], sys.argv[2], rows=4)
"""


@pytest.mark.soak
@pytest.mark.parametrize("first", [0, 1000])
@pytest.mark.parametrize(("kind", "count"), [("pipeline", 2), ("pipeline", 3), ("tensor", 2)])
def test_threads_that_ask_at_once_get_what_one_process_answers(
    tmp_path: Path, kind: str, count: int, first: int
) -> None:
    family = "llama-3.1" if kind == "tensor" else "openelm"
    model = checkpoints.write(tmp_path / "model", checkpoints.CONFIGS[family])
    with ranks(tmp_path, CROWD, model, kind, first, count=count, PYTHONPATH=PATH) as run:
        answered, *others = run.ended()
    assert (answered.code, answered.error) == (0, "")
    assert {(one.code, one.error) for one in others} == {(0, "")}
    with elm_mlx.load(model, rows=4) as lm:
        expected = json.loads(json.dumps(ask_all(lm, first, 150)))
    assert json.loads(answered.out.splitlines()[-1]) == expected
